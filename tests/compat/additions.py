"""The public names that are here and not in the original. `docs/migration.md` shows the same table."""

from __future__ import annotations

ADDITIONS = {
    "s3checkpoint.S3Checkpoint(region)": "may be left out: then it comes from the environment",
    "s3iterable_dataset.S3IterableDataset.from_prefix(region)": "may be left out",
    "s3iterable_dataset.S3IterableDataset.from_objects(region)": "may be left out",
    "s3map_dataset.S3MapDataset.from_prefix(region)": "may be left out",
    "s3map_dataset.S3MapDataset.from_objects(region)": "may be left out",
    "s3map_dataset.S3MapDataset.__getitems__": "the items of one batch, fetched together; `DataLoader` calls it",
    "s3reader.sequential.SequentialS3Reader.read1": "some bytes, those at hand; `io.TextIOWrapper` calls it",
    "s3reader.ranged.RangedS3Reader.read1": "the same",
    "s3reader.constructor.DCPOptimizedConstructor.max_gap_size": "as given",
    "dcp.RoundRobinPrefixStrategy": "importable from here, as the README of the original has it",
    "dcp.s3_prefix_strategy.BinaryPrefixStrategy(min_prefix_len)": "what the README calls `min_prefix_length`",
    "dcp.s3_prefix_strategy.HexPrefixStrategy(min_prefix_len)": "the same",
    "dcp.s3_file_system.S3FileSystem(endpoint)": "as the other classes have it; else it comes from the environment",
    "dcp.s3_file_system.S3StorageReader(endpoint)": "the same",
    "dcp.s3_file_system.S3StorageWriter(endpoint)": "the same",
    "dcp.s3_file_system.S3FileSystem(sync_files)": "whether a write to a file waits until it is on the disk",
    "dcp.s3_file_system.S3StorageWriter(sync_files)": "the same; the original refuses PyTorch's keyword",
    "_s3client.s3client_config.S3ClientConfig(requester_pays)": "as on the original's main branch",
    "_s3client.s3client_config.S3ClientConfig.requester_pays": "the same",
    "_s3client._s3client.S3Client(durable)": "what a write to a file waits for: `full`, `file` or `none`",
    "_s3client._s3client.S3Client.endpoint": "as given",
    "_s3client._s3client.S3Client.get_object(scheme)": "that of the URI, where it is not `s3`",
    "_s3client._s3client.S3Client.put_object(scheme)": "the same",
    "_s3client._s3client.S3Client.list_objects(scheme)": "the same",
    "_s3client._s3client.S3Client.head_object(scheme)": "the same",
    "_s3client._s3client.S3Client.delete_object(scheme)": "the same",
    "_s3client._s3client.S3Client.copy_object(scheme)": "the same",
}
"""What a program can use here and not there, by path: names, parameters, and parameters that may be left out."""
