"""S3 as a storage of envoi-trace."""
