"""Names of the operator families, without importing torch; `recon.operators.registry` loads them.

Each entry: kind -> (module, one line). The module exports `FAMILY`, a `recon.operators.family.Family`.
"""

from __future__ import annotations

OPERATORS: dict[str, tuple[str, str]] = {
    "denoise": ("recon.operators.denoise", "identity: the image itself, with noise"),
    "inpaint": ("recon.operators.inpaint", "pixels of a mask: box, random or from a file"),
    "downsample": ("recon.operators.downsample", "super-resolution: antialiased bicubic, box average, or a kernel's"),
    "blur": ("recon.operators.blur", "Gaussian, motion or given kernel; circular, reflect or valid boundary"),
    "blur-varying": ("recon.operators.blur_varying", "blur that varies over the image: kernels on a grid of points"),
    "lensless": ("recon.operators.lensless", "lensless camera: the crop of a full convolution with a large pattern"),
    "demosaic": ("recon.operators.demosaic", "one colour at every pixel, by a Bayer pattern"),
    "colour-mix": ("recon.operators.colour", "mixing of channels, such as RGB to grey"),
    "mri": ("recon.operators.mri", "Cartesian MRI, one coil or many, undersampled k-space"),
    "mri-nufft": ("recon.operators.mri_nufft", "MRI along radial, spiral or given trajectories, one coil or many"),
    "ct": ("recon.operators.ct", "parallel-beam tomography of an image, or of a volume slice by slice"),
    "ct-fan": ("recon.operators.ct_fan", "fan-beam tomography with a flat or curved detector"),
    "ct-cone": ("recon.operators.ct_cone", "circular cone-beam tomography of a volume with a flat detector"),
    "phase-retrieval": ("recon.operators.phase", "amplitude of the oversampled Fourier transform, non-linear"),
    "hdr": ("recon.operators.hdr", "a detector that saturates before black and white, non-linear"),
    "nonlinear-blur": ("recon.operators.response_blur", "blur of light, seen through a camera's response, non-linear"),
    "learned-blur": ("recon.operators.learned_blur", "blur by a published kernel network, from a file, non-linear"),
    "slice-average": ("recon.operators.slice_average", "super-resolution along z: averages of neighbouring slices"),
    "coded-diffraction": ("recon.operators.coded_diffraction", "Fourier amplitudes behind random masks, non-linear"),
    "ptychography": ("recon.operators.ptychography", "Fourier amplitudes of overlapping lit windows, non-linear"),
    "holography": ("recon.operators.holography", "off-axis hologram of an amplitude or a phase, non-linear"),
    "jpeg": ("recon.operators.jpeg", "JPEG's rounding of cosine coefficients, straight-through or a black box"),
    "matrix": ("recon.operators.matrix", "a dense or sparse (CSR) matrix from a file"),
}
