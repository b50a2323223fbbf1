"""rwloss inside other frameworks: each is imported only by its own module here."""
