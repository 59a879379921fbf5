"""An open runtime for Pomerium's Zero-managed mode."""
