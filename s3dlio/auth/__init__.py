"""Who is asking: credentials, and the signatures made with them. No secret leaves this package but inside a request."""
