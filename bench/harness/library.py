"""Runs the library in a process of its own, as a program of its users would: ``library.py WORK WHERE...``.

``convert`` and ``convert-unchecked`` convert every file of a folder into a new one, with and without looking
at what was written; ``copy`` copies them, and has imported the same. ``page-table`` makes the page table of
an image, ``samples`` a folder of small images.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable

import xenmig_np
from xenmig_np.sample import SampleOptions, sample_image


def each(work: Callable[[str, str], object], folder: str, made: str) -> None:
    os.mkdir(made)
    for name in sorted(os.listdir(folder)):
        work(os.path.join(folder, name), os.path.join(made, name))


def samples(folder: str, count: str, memory: str, zeros: str) -> None:
    os.mkdir(folder)
    for seed in range(int(count)):
        options = SampleOptions(memory=int(memory), zeros=float(zeros), seed=seed)
        with open(os.path.join(folder, f"{seed:06}"), "wb") as file:
            file.writelines(sample_image(options))


def page_table(image: str) -> None:
    with xenmig_np.open_image(image) as opened:
        print(len(opened.page_table))


def main(work: str, *words: str) -> None:
    converter = xenmig_np.convert  # imports what copying does without, for both alike
    if work == "convert":
        each(lambda old, new: converter(old, new, sync=False), *words)
    elif work == "convert-unchecked":
        each(lambda old, new: converter(old, new, sync=False, check=False), *words)
    elif work == "copy":
        each(shutil.copyfile, *words)
    elif work == "page-table":
        page_table(*words)
    else:
        samples(*words)


if __name__ == "__main__":
    main(*sys.argv[1:])
