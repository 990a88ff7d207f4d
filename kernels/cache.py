"""Compiled kernels on disk: where they lie, and files that are written whole or not at all.

A cache is never needed: what cannot be written is not kept, what cannot be read or is damaged counts as missing.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import uuid
from pathlib import Path

__all__ = ["read", "root", "writable_folder", "write"]


def root() -> Path | None:
    """Folder of all compiled kernels, which need not exist; None where there shall be none.

    ``FASTRNN_CACHE_DIR`` (empty: no cache), else ``$XDG_CACHE_HOME/fastrnn`` or ``~/.cache/fastrnn``.
    """
    named = os.environ.get("FASTRNN_CACHE_DIR")
    if named is not None:
        return Path(named) if named else None
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastrnn"
    except RuntimeError:  # no home folder
        return None


def writable_folder(name: str) -> Path | None:
    """A folder below the root, made if need be; None where nothing can be written there."""
    base = root()
    if base is None:
        return None
    try:
        (base / name).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=base / name):
            return base / name
    except OSError:
        return None


def read(name: str) -> bytes | None:
    """What ``write`` kept under a name, or None if that is missing or damaged."""
    base = root()
    if base is None:
        return None
    try:
        stored = (base / name).read_bytes()
    except OSError:
        return None
    digest, data = stored[:32], stored[32:]
    return data if hashlib.sha256(data).digest() == digest else None


def write(name: str, data: bytes) -> None:
    """Keep data in a file below the root; a reader sees all of it or none. Where that cannot be, nothing happens."""
    base = root()
    if base is None:
        return
    path = base / name
    # Not from tempfile, whose files only their owner may read: a cache may be filled by one user for others.
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            unfinished.write_bytes(hashlib.sha256(data).digest() + data)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)
    except OSError:
        pass
