"""vLLM's source distribution, found as pip finds packages, of which the tests are unpacked."""

import hashlib
import io
import logging
import shutil
import tarfile
from pathlib import Path


class NoSource(Exception):
    """The source distribution cannot be had here."""


def tests_of(version: str, folder: Path) -> Path:
    """The folder that holds `tests/` of that version, unpacked once. Raises `NoSource`."""
    unpacked = folder / f"vllm-{version}"
    if not unpacked.exists():
        archive = download(version)
        beside = folder / f".vllm-{version}"
        shutil.rmtree(beside, ignore_errors=True)
        with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
            # Without `vllm/`, which would stand before the installed one.
            kept = ("tests/", "pyproject.toml")  # which names the tests' marks
            wanted = [member for member in tar if member.name.partition("/")[2].startswith(kept)]
            tar.extractall(beside, wanted, filter="data")
        next(beside.iterdir()).rename(unpacked)
        beside.rmdir()
    return unpacked


def download(version: str) -> bytes:
    """The archive, by pip's own session, indexes and certificates.

    `pip download` of a source distribution would build its metadata, for which vLLM wants a compiler.
    """
    try:
        from pip._internal.commands.download import DownloadCommand
        from pip._vendor.packaging.specifiers import SpecifierSet
    except ImportError as error:
        raise NoSource(f"pip has changed: {error}") from error
    logging.getLogger("pip").setLevel(logging.CRITICAL)
    command = DownloadCommand("download", "")
    options, _ = command.parse_args(["--no-binary=:all:", "vllm"])
    with command.main_context():
        session = command.get_default_session(options)
        finder = command._build_package_finder(options, session)
        found = finder.find_best_candidate("vllm", SpecifierSet(f"=={version}")).best_candidate
        if found is None:
            raise NoSource("no index has it")
        try:
            with session.get(found.link.url_without_fragment, stream=True) as response:
                response.raise_for_status()
                archive: bytes = response.raw.read()
        except OSError as error:
            raise NoSource(str(error)) from error
    if (name := found.link.hash_name) and hashlib.new(name, archive).hexdigest() != found.link.hash:
        raise NoSource(f"what came is not what the index says: another {name}")
    return archive
