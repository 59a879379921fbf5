"""What one host hands to another through a visitor's browser: signed URLs, sealed queries, derived keys. Pure."""
