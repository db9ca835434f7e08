"""The friendly face: files encrypted and hashed in workers, without a word about workers."""
