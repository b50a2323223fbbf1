"""rwloss in other frameworks: each framework is imported only by its own module."""
