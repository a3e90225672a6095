"""``system/lock.py``, under the name that the modules of studies import."""

from ttlightning.system.lock import Lock

__all__ = ["Lock"]
