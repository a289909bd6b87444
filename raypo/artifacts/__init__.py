"""What trials share is computed once: a store of folders under the content hash of everything they depend on."""

from raypo.artifacts.hashing import hash_folder, hash_of
from raypo.artifacts.store import Artifact, Store

__all__ = ["Artifact", "Store", "hash_folder", "hash_of"]
