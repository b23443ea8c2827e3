"""HTTP/1.1 on Trio sockets: bodies land straight in the caller's memory."""
