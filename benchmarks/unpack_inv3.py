"""Write the volume of an InVesalius project as NIfTI, in Hounsfield units.

    python benchmarks/unpack_inv3.py Cranium.inv3 DIR/cranium.nii.gz

The suite `volume-ct` of suites.toml measures on the head of Debian's package invesalius-examples (GPL-2, so that it is
not shipped here; examples/Cranium.inv3, sha256 3b34f11f7c4f557f4c65cd6543c412a2f6ceb0cfecfd9c41184420e02d9b7e2a).
A project is a tar archive of main.plist, which gives shape (z, y, x) and spacing (x, y, z) in mm, and the voxels.
"""

from __future__ import annotations

import argparse
import plistlib
import tarfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

VOXEL = np.dtype("<i2")


def read_project(path: Path) -> tuple[np.ndarray, tuple[float, float, float]]:
    """Return the voxels (z, y, x), int16, and the spacing (x, y, z) in mm of a project."""
    with tarfile.open(path) as archive:
        members = {Path(member.name).name: member for member in archive.getmembers() if member.isfile()}

        def content(name: str) -> bytes:
            stream = archive.extractfile(members[name])
            assert stream is not None
            return stream.read()

        facts: dict[str, Any] = plistlib.loads(content("main.plist"))
        matrix = facts["matrix"]
        if matrix["dtype"] != "int16":
            raise SystemExit(f"{path.name} holds voxels of {matrix['dtype']}, expected int16")
        voxels = np.frombuffer(content(matrix["filename"]), VOXEL).reshape(matrix["shape"])
    x, y, z = facts["spacing"]
    return voxels, (float(x), float(y), float(z))


def main() -> None:
    """Parse the command line and write the volume."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("project", type=Path)
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    voxels, spacing = read_project(arguments.project)
    nib.save(nib.Nifti1Image(voxels.transpose(2, 1, 0), np.diag([*spacing, 1.0])), arguments.output)
    print(f"{arguments.output.name}: {voxels.shape[::-1]} voxels of {spacing} mm")


if __name__ == "__main__":
    main()
