"""Objects <-> blobs on nodes; every surface (HTTP, later S3) goes through here."""
