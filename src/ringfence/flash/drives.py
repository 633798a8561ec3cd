"""What isolation a real NVMe drive can give, by what it says of itself.

From best to least: separate drives; NVM sets and endurance groups, each with media of its own; FDP with several
reclaim groups; zones; FDP's placement handles; namespaces, which share everything, behind limits of the host.
Drives say no more than their identify pages do: whether two NVM sets share a bus only the vendor knows, and FDP is
best effort, under which hostile tenants were measured to amplify each other's writes.

Bits: NVM Express Base Specification 2.0, Identify Controller, CTRATT: 2 NVM Sets, 4 Endurance Groups, 19 Flexible
Data Placement (TP4146).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

_NVM_SETS, _ENDURANCE_GROUPS, _FDP = 1 << 2, 1 << 4, 1 << 19


class Namespace(NamedTuple):
    """:param zoned: the kernel's word: `none`, `host-aware` or `host-managed`."""

    name: str
    zoned: str = "none"
    nvm_set: int = 0
    endurance_group: int = 0


class Drive(NamedTuple):
    """:param known: its identify page could be read; else only what sysfs says is here.
    :param nvm_sets: how many it can have at most; 0 where it has none. `endurance_groups` likewise.
    :param reclaim_groups: of FDP, in the configuration with most of them; `handles` likewise.
    :param fdp: it can do FDP, whether it is switched on or not.
    :param capacity_bytes: of all its media, or else of its namespaces; 0 where neither is known.
    :param uses: where the host has it mounted, or what is made of it; empty where the host does not use it.
    """

    name: str
    model: str = ""
    known: bool = False
    nvm_sets: int = 0
    endurance_groups: int = 0
    fdp: bool = False
    reclaim_groups: int = 0
    handles: int = 0
    max_namespaces: int = 1
    namespaces: tuple[Namespace, ...] = ()
    capacity_bytes: int = 0
    uses: tuple[str, ...] = ()


class Ability(NamedTuple):
    """One way to part a drive.

    :param tenants: how many it can hold apart. :param isolates: what they do not share by it.
    :param command: how to get one.
    """

    kind: str
    tenants: int
    isolates: str
    command: str


def read_drive(
    name: str, model: str, identify: Mapping[str, Any] | None, fdp_configs: Sequence[Mapping[str, Any]] = ()
) -> Drive:
    """A drive from nvme-cli's JSON: of `id-ctrl`, and of `fdp configs` where it answered.

    What is missing or no number counts as not there: firmware says strange things.
    """
    if identify is None:
        return Drive(name, model)
    attributes = _number(identify, "ctratt")
    configs = [config for config in fdp_configs if isinstance(config, Mapping)]
    return Drive(
        name,
        model,
        known=True,
        nvm_sets=_number(identify, "nsetidmax") if attributes & _NVM_SETS else 0,
        endurance_groups=_number(identify, "endgidmax") if attributes & _ENDURANCE_GROUPS else 0,
        fdp=bool(attributes & _FDP),
        reclaim_groups=max((_number(config, "nrg") for config in configs), default=0),
        handles=max((_number(config, "nruh") for config in configs), default=0),
        max_namespaces=max(1, _number(identify, "nn")),
        capacity_bytes=_wide(identify, "tnvmcap"),
    )


def abilities(drive: Drive) -> tuple[Ability, ...]:
    """All ways to part it, the best first; the first is the best that it has."""
    device = f"/dev/{drive.name}"
    found: list[Ability] = []
    if drive.nvm_sets > 1:
        create = f"nvme create-ns {device} --nsze=BLOCKS --ncap=BLOCKS --nvmset-id=N --endg-id=G"
        found.append(Ability("NVM sets", drive.nvm_sets, "media of their own", create))
    if drive.endurance_groups > 1:
        create = f"nvme create-ns {device} --nsze=BLOCKS --ncap=BLOCKS --endg-id=G"
        found.append(Ability("endurance groups", drive.endurance_groups, "wear, and mostly media", create))
    if drive.fdp and drive.reclaim_groups > 1:
        found.append(
            Ability(
                "FDP reclaim groups", drive.reclaim_groups, "blocks and collection, as best effort", _fdp(device)
            )
        )
    zoned = [namespace for namespace in drive.namespaces if namespace.zoned != "none"]
    if zoned:
        report = f"nvme zns report-zones /dev/{zoned[0].name} -d 4"
        found.append(Ability("zones", 0, "blocks: no collection by the drive; time of its dies is shared", report))
    if drive.fdp:
        found.append(
            Ability(
                "FDP handles", drive.handles, "streams of writes, as best effort; nothing of time", _fdp(device)
            )
        )
    limits = "ringfence set VM disk.vda.iops=N, or io.max of the VM's cgroup"
    found.append(Ability("namespaces", drive.max_namespaces, "nothing in the drive; the host limits", limits))
    return tuple(found)


def _fdp(device: str) -> str:
    enable = f"nvme set-feature {device} -f 0x1d -c 1 -s"
    return (
        f"{enable}, then nvme create-ns {device} --nsze=BLOCKS --ncap=BLOCKS --endg-id=1 --nphndls=N --phndls=..."
    )


def _number(page: Mapping[str, Any], key: str) -> int:
    value = page.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else 0


def _wide(page: Mapping[str, Any], key: str) -> int:
    """A number of 128 bits, which nvme-cli writes as text."""
    value = page.get(key)
    return int(value) if isinstance(value, str) and value.isdecimal() and len(value) < 40 else _number(page, key)


class Placement(NamedTuple):
    """Where a tenant goes. :param kind: of the ability by which it is held apart."""

    tenant: str
    drive: str
    kind: str
    isolates: str
    command: str


def place(tenants: Sequence[str], drives: Sequence[Drive]) -> tuple[Placement, ...]:
    """Give each tenant the best place that is left, those named first before those named later.

    A drive of its own while there are as many drives as tenants; else the drives' own ways, the best first.
    """
    if drives and len(tenants) <= len(drives):
        return tuple(
            Placement(tenant, drive.name, "separate drives", "everything", f"give it /dev/{drive.name} whole")
            for tenant, drive in zip(tenants, drives, strict=False)
        )
    # Tenants in one drive are apart only if all of them are by the same means.
    order = [ability.kind for drive in drives for ability in abilities(drive)]
    rank = {kind: number for number, kind in enumerate(sorted(set(order), key=_KINDS.index))}
    found: list[Placement] = []
    left = list(tenants)
    best = sorted(drives, key=lambda drive: rank[abilities(drive)[0].kind])
    for number, drive in enumerate(best):
        share = left[: -(-len(left) // (len(best) - number))]
        left = left[len(share) :]
        ability = next(a for a in abilities(drive) if a.tenants == 0 or a.tenants >= len(share) or a.kind == _LAST)
        found += [Placement(name, drive.name, ability.kind, ability.isolates, ability.command) for name in share]
    return tuple(found)


_LAST = "namespaces"
_KINDS = ("NVM sets", "endurance groups", "FDP reclaim groups", "zones", "FDP handles", _LAST)
