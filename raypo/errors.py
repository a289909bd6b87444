"""Errors a user can cause or must act on.

RaypoError
 |- StudyError(ValueError)      a study file says something impossible
 |- DataError(ValueError)       data is missing, empty or malformed
 |- MethodError(ValueError)     a method is unknown, misused or given a bad hyperparameter
 |- ModelError(ValueError)      a model folder cannot be used
 |- JudgeError(RuntimeError)    a judge cannot give verdicts
 |- ClusterError(RuntimeError)  the cluster lacks what the study asks for
 |- StorageError(RuntimeError)  a search or artifact cannot be read or written
 |- Diverged(RuntimeError)      training left the region where its numbers mean anything
 |- Hindrance                   what no trial can do without is not there for now; a search stops and goes on later
     |- JudgeUnavailable(JudgeError), StorageUnavailable(StorageError)

Messages read *where: what is wrong, got X; what is allowed; what to do*. No class has an `__init__` of its own,
so all of them survive pickling across Ray.
"""

import difflib
from collections.abc import Iterable


def nearest(name: object, names: Iterable[object]) -> str:
    """What the message about an unknown name ends with: `; did you mean 'beta'?`, or nothing.

    >>> nearest("betta", ["beta", "lr"])
    "; did you mean 'beta'?"
    """
    near = difflib.get_close_matches(str(name), [str(known) for known in names], 1)
    return f"; did you mean {near[0]!r}?" if near else ""


class RaypoError(Exception):
    """Base of every error that raypo reports without a traceback."""


class StudyError(RaypoError, ValueError):
    """A study file says something impossible; `str()` holds one problem a line."""


class DataError(RaypoError, ValueError):
    """Data is missing, empty or malformed."""


class MethodError(RaypoError, ValueError):
    """A method is unknown, misused or given a bad hyperparameter."""


class ModelError(RaypoError, ValueError):
    """A model folder cannot be used."""


class JudgeError(RaypoError, RuntimeError):
    """A judge cannot give verdicts."""


class ClusterError(RaypoError, RuntimeError):
    """The cluster lacks what the study asks for."""


class StorageError(RaypoError, RuntimeError):
    """A search or artifact cannot be read or written."""


class Diverged(RaypoError, RuntimeError):
    """Training left the region where its numbers mean anything."""


class Hindrance(RaypoError):
    """What no trial can do without is not there for now: a search stops at it, and goes on once it is mended."""


class JudgeUnavailable(JudgeError, Hindrance):
    """A judge does not answer, or not often enough: its server is down or refuses, or its budget is spent."""


class StorageUnavailable(StorageError, Hindrance):
    """There is no room, or the storage cannot be reached."""
