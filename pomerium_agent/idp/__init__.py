"""Identity providers: how to ask each of them who somebody is."""
