"""Sends compressed files to a receiver that takes no compressed ones, beside dcmsend and the bare decoder.

    python benchmarks/decompress.py [--files 500] [--rounds 3] [--smoke]

The receiver is DCMTK's storescp. It and dcmsend run with TCP_NODELAY=1. The bare decoders are imagecodecs, and the one
that pydicom chooses, each in two processes that read files and send nothing. The CPU time of a sender includes that of
its processes, but not the receiver's; it says more than the rate when the machine has other work.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import imagecodecs
import numpy as np
import pydicom
from pydicom.data import get_testdata_file
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder

if TYPE_CHECKING:
    from collections.abc import Callable

# Otherwise each answer would wait 40 ms for an acknowledgement.
_AT_ONCE: Final = {**os.environ, "TCP_NODELAY": "1"}
_SIDE: Final = 512
_ENCODERS: Final = {"JPEG Lossless .70": ["dcmcjpeg", "+e1"], "JPEG-LS .80": ["dcmcjpls"]}


def write_files(directory: Path, count: int, encoder: list[str]) -> list[Path]:
    """So many images of 512 KiB in 12 bits, compressed by DCMTK."""
    image = pydicom.dcmread(str(get_testdata_file("CT_small.dcm")))
    y, x = np.mgrid[0:_SIDE, 0:_SIDE]
    noise = np.random.default_rng(1).normal(0, 8, (_SIDE, _SIDE))
    pixels = (1000 + 400 * np.sin(x / 40) + 300 * np.cos(y / 25) + noise).astype(np.uint16)
    image.PixelData, image.Rows, image.Columns = pixels.tobytes(), _SIDE, _SIDE
    image.BitsStored, image.HighBit, image.PixelRepresentation = 12, 11, 0
    uid = "1.2.826.0.1.3680043.8.498.10000"
    image.SOPInstanceUID = image.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID(uid)
    plain, compressed = directory / "plain", directory / "compressed"
    image.save_as(plain)
    subprocess.run([*encoder, plain, compressed], check=True)
    data = compressed.read_bytes()
    paths = [directory / f"{number:05}.dcm" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(data.replace(uid.encode(), b"%s%05d" % (uid[:-5].encode(), 10_000 + number)))
    plain.unlink()
    compressed.unlink()
    return paths


def decode_by_imagecodecs(path: Path) -> int:
    """Decode a file and do nothing with it."""
    data_set = pydicom.dcmread(path)
    is_jpeg_ls = data_set.file_meta.TransferSyntaxUID == pydicom.uid.JPEGLSLossless
    decode = imagecodecs.jpegls_decode if is_jpeg_ls else imagecodecs.jpeg8_decode
    return sum(decode(frame).size for frame in generate_frames(data_set.PixelData, number_of_frames=1))


def decode_by_pydicom(path: Path) -> int:
    """The same by the decoder that pydicom chooses."""
    data_set = pydicom.dcmread(path)
    decoder = get_decoder(data_set.file_meta.TransferSyntaxUID)
    return sum(array.size for array, _ in decoder.iter_array(data_set, raw=True))


def decode_all(paths: list[Path], name: str, decode: Callable[[Path], int]) -> None:
    """Decode in two processes, whose start does not count."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(decode, paths[:2], chunksize=1)
        begin = time.perf_counter()
        pool.map(decode, paths, chunksize=8)
        print(f"    {name:26} {len(paths) / (time.perf_counter() - begin):8.1f} files/s")


def timed(name: str, count: int, run: Callable[[], object]) -> None:
    """Print how many files a second a run has sent, and the CPU time that it took."""
    begin, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    seconds, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"    {name:26} {count / seconds:8.1f} files/s  {cpu:6.2f} s of CPU")


def send_to(port: int, directory: Path, count: int) -> None:
    """Send the files by asyncstore, with one process and with two, and by dcmsend."""
    address = ["127.0.0.1", str(port)]
    for workers in (1, 2):
        command = [
            sys.executable,
            "-m",
            "asyncstore",
            "storescu",
            "-r",
            "--workers",
            str(workers),
            *address,
            str(directory),
        ]
        timed(f"asyncstore --workers {workers}", count, lambda command=command: subprocess.run(command, check=True))  # type: ignore[misc]
    command = ["dcmsend", "+dls", "+sd", *address, str(directory)]
    timed("dcmsend +dls", count, lambda: subprocess.run(command, check=True, env=_AT_ONCE))


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def main() -> None:
    """Run everything, in rounds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--smoke", action="store_true", help="a few files, to see that it works")
    given = parser.parse_args()
    count, rounds = (20, 1) if given.smoke else (given.files, given.rounds)
    port = free_port()
    receiver = subprocess.Popen(
        [str(shutil.which("storescp", path="/usr/bin")), "--ignore", "+xe", "--fork", str(port)], env=_AT_ONCE
    )
    try:
        for name, encoder in _ENCODERS.items():
            print(f"{name}, {count} files of {_SIDE * _SIDE * 2 >> 10} KiB, load {os.getloadavg()[0]:.1f}")
            with tempfile.TemporaryDirectory() as directory:
                paths = write_files(Path(directory), count, encoder)
                for _ in range(rounds):
                    send_to(port, Path(directory), count)
                    decode_all(paths, "imagecodecs, 2 processes", decode_by_imagecodecs)
                    decode_all(paths, "pydicom, 2 processes", decode_by_pydicom)
    finally:
        receiver.terminate()
        receiver.wait()


if __name__ == "__main__":
    main()
