"""The one place where the version is written, and the versions of what rwloss uses."""

from functools import cache

__version__ = "0.2.0"
"""The version of rwloss."""


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of rwloss and of each of these packages that is installed."""
    return {"rwloss": __version__} | {name: found for name in packages if (found := _found(name))}


@cache
def _found(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None
