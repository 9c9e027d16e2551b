"""Every bound on a value that comes from an image, with its reason.

Bounds of the format itself (batch size, context sizes) are in :mod:`xenmig_np.wire`; these are the sizes up
to which this program believes a length field. Each is far above what any saver wrote.
"""

from __future__ import annotations

KIB = 1 << 10
MIB = 1 << 20

P2M_SIZE_MAX = 1 << 28
"""A legacy word has 28 bits of pfn (legacy-stream.md 2.1)."""

P2M_SIZE_MIN_DETECTED = 16
"""Below this an automatic decision is refused: ia64 images begin with a version 1..3 (legacy-stream.md 0)."""

EXTENDED_INFO_MAX = 64 * KIB
"""Savers wrote at most 0x144c bytes (legacy-stream.md 2.2)."""

XSAVE_MIN, XSAVE_MAX = 16, 64 * KIB
"""A record is two u64 and an area of a few KiB at most (legacy-stream.md 7.1)."""

TOOLSTACK_MAX = MIB
"""One -18 chunk holds a few hundred bytes (legacy-stream.md 11)."""

TOOLSTACK_TOTAL_MAX = 16 * MIB
"""All -18 chunks together: they are kept until the pages are out."""

PARAMETERS_MAX = 4096
"""HVM parameter chunks of an image; savers write 15 per body, they are kept until the pages are out."""

HVM_CONTEXT_MAX = 16 * MIB
"""Xen 4.5 writes less than 1 MiB for 128 vCPUs (legacy-stream.md 11)."""

DEVICE_MODEL_MAX = 256 * MIB
DEVICE_MODEL_USUAL = MIB
"""States have some tens of KiB; above the usual size a note is written (containers.md 6.2)."""

CONFIG_MAX = 16 * MIB
"""Configuration carried by a container (containers.md 1.1)."""

BODY_MAX = 16 * MIB
"""Body of a record of a v2 or v3 stream, pages and device state apart: the largest is an HVM context."""

TABLES_WATCHED = 1 << 16
"""Page tables whose entries are remembered on a pipe, 2 KiB each: those of a guest of 128 GiB."""

TRAILING_COUNTED = 16 * MIB
"""Bytes behind an image on a pipe that are read to tell how many they are."""

NOTES_PER_RULE = 8
"""Notes of one kind that are kept word for word; the rest is counted."""

PIECE = 256 * KIB
"""Bytes read and written at a time: small enough for the processor's cache (see bench)."""

HEADS = 16 * KIB
"""Bytes read ahead where a head is expected in a file: the largest batch head has 8196."""

REPLAY_MAX = 5 * MIB
"""What detection may look at on a pipe: a frame list, one whole batch and the next head."""
