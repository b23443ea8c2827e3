"""What `pip` has to install beside this package before a part of it can be imported."""

from __future__ import annotations

_EXTRAS = {"torch": "torch", "lightning": "lightning", "packaging": "lightning"}


def naming_the_extra(error: ModuleNotFoundError) -> ModuleNotFoundError:
    """The same error, with the extra that brings the absent module, where one does."""
    extra = _EXTRAS.get((error.name or "").partition(".")[0])
    if extra is None:
        return error
    return ModuleNotFoundError(f"{error}. Install it with: pip install 's3dlio[{extra}]'", name=error.name)
