"""Who is signed in, as this replica knows it from the records."""
