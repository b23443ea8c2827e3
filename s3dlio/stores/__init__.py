"""One module per kind of store, all of one interface: :class:`s3dlio.stores.store.ObjectStore`."""
