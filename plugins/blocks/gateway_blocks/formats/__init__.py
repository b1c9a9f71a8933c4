"""What checksums and folders are told in: Metalink, torrents, checksum lists, manifests, listings."""
