"""Pomerium Policy Language: parse it, decide by it. Pure."""
