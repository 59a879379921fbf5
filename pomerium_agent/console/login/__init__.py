"""The console as the service that logs people in, so that clusters need no identity provider of their own."""
