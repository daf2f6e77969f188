"""What measuring has found on this machine: plans that are faster than those the model chooses.

`konv tune` measures and writes it down here; `choose` asks here before it asks the model. A finding
is a small file of the cache beside the kernels, under the same rules (konv.runtime.sealed) and with
the same key: another processor, LLVM or source of an emitter does not find it any more. It holds
the name of a plan, which counts only if an algorithm still offers that plan for the layer: so no
file, whoever wrote it, can make konv run anything but a kernel of its own.

A process lists the findings once, when it first chooses, and reads each once: what another process
finds meanwhile changes no plan under way. Without findings this costs one look into the folder.

    KONV_TUNED      empty, 0 or off: findings are left aside, the model alone chooses
"""

from __future__ import annotations

import os

from konv.runtime import store
from konv.runtime.sealed import TUNED
from konv.target import Target

Layer = tuple[str, Target]

_listed: dict[str, frozenset[str]] = {}  # "keys": of the files that were there
_found: dict[Layer, str] = {}  # the name of a plan, "" for none


def ignored() -> bool:
    """Whether the environment says that findings do not count."""
    return os.environ.get("KONV_TUNED", "on").lower() in ("", "0", "off")


def find(layer: str, target: Target) -> str:
    """The name of the plan found fastest for a layer in words, "" if there is none."""
    if ignored():
        return ""
    keys = _listed.get("keys")
    if keys is None:  # setdefault: of two threads that list at once, both take what one of them saw
        keys = _listed.setdefault("keys", store.names(TUNED))
    if not keys and not _found:
        return ""
    found = _found.get((layer, target))
    if found is None and (key := _key(layer, target)) in keys:
        found = _found.setdefault((layer, target), _read(key))
    return found or ""


def _read(key: str) -> str:
    try:
        return (store.fetch(key, TUNED) or b"").decode()
    except UnicodeDecodeError:  # sealed, but not by this konv
        return ""


def remember(layer: str, target: Target, plan: str, words: str) -> bool:
    """From here on this plan, with words for `konv cache show`; whether other processes will see it
    too: there may be no cache.
    """
    _found[layer, target] = plan
    return store.keep(_key(layer, target), plan.encode(), words, TUNED)


def forget(layer: str, target: Target) -> None:
    """From here on the model's choice for this layer."""
    _found[layer, target] = ""
    store.remove(TUNED, _key(layer, target))


def forget_all() -> int:
    """From here on the model's choice for every layer; how many findings there were."""
    count = store.remove(TUNED)
    _found.clear()
    _listed["keys"] = frozenset()
    return count


def renew() -> None:
    """List and read again at the next choice, as a new process would."""
    _found.clear()
    _listed.clear()


def entries() -> list[store.Entry]:
    """The files, of this machine, version and others; last used first."""
    return store.entries(TUNED)


def _key(layer: str, target: Target) -> str:
    return store.key(f"tuned {layer}", target)
