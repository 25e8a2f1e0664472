"""An image for tests in containers, of this machine's own shell and small programs: no registry is needed."""

import io
import re
import shutil
import subprocess
import tarfile

import pytest
from rollhouse.base.containers import container_engine
from rollhouse.base.errors import ConfigError

IMAGE = "localhost/rollhouse-tests:latest"
_PROGRAMS = ("bash", "sh", "cat", "chmod", "env", "head", "id", "ls", "mkdir", "rm", "sleep", "true")


def container_image() -> str:
    """The image, made where it is not there yet; the test is skipped, with the reason, where no container runs."""
    try:
        engine = container_engine()
    except ConfigError as error:
        pytest.skip(error.message)
    if subprocess.run([engine, "image", "inspect", IMAGE], capture_output=True).returncode:
        made = subprocess.run([engine, "import", "-", IMAGE], input=_root(), capture_output=True)
        if made.returncode:
            pytest.skip(f"{engine} imports no image: {made.stderr.decode(errors='replace')[-200:]}")
    ran = subprocess.run([engine, "run", "--rm", "--network", "host", IMAGE, "/bin/sh", "-c", "echo runs"], capture_output=True, text=True)  # fmt: skip
    if ran.stdout != "runs\n":
        pytest.skip(f"{engine} runs no container here: {ran.stderr[-200:]}")
    return IMAGE


def _root() -> bytes:
    """A root folder as a tar: the programs and the libraries that they load."""
    files = {f"/bin/{name}": path for name in _PROGRAMS if (path := shutil.which(name))}
    for program in list(files.values()):
        listed = subprocess.run(["ldd", program], capture_output=True, text=True).stdout
        files |= {path: path for path in re.findall(r"(/\S+)", listed)}
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", dereference=True) as archive:
        for folder in ("tmp", "root", "proc", "sys", "dev", "etc", "run"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o777 if folder == "tmp" else 0o755
            archive.addfile(entry)
        for place, path in files.items():
            archive.add(path, place.lstrip("/"), recursive=False)
    return packed.getvalue()
