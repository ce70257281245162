"""Published files from the command line to the images: complex, tiled, of a class, guided; and what each file is."""

from __future__ import annotations

import json

import numpy as np
import pytest
from checkpoint_files import FIXTURES, unpack, unpack_folder

# file -> family, architecture, start of the preconditioning, channels, whether complex, classes
WHAT = {
    "adm-classes.pt": ("adm", "ADM (guided-diffusion UNet)", "vp, table of 1000", 1, False, 5),
    "adm-learned.pt": ("adm", "ADM (guided-diffusion UNet)", "vp, table of 1000", 3, False, 0),
    "adm-new-order.pt": ("adm", "ADM (guided-diffusion UNet)", "vp, table of 1000", 2, True, 0),
    "diffunet.pt": ("adm", "ADM (guided-diffusion UNet)", "vp, table of 1000", 3, False, 0),
    "diffusers-cosine-v.tar": ("diffusers", "UNet2DModel (diffusers)", "vp, table of 100 levels, cosine", 1, False, 3),
    "diffusers-ddpm-old.tar": ("diffusers", "UNet2DModel (diffusers)", "vp, table of 1000 levels, linear", 1, False, 0),
    "diffusers-flow.tar": ("diffusers", "UNet2DModel (diffusers)", "flow, times up to 1000", 1, False, 0),
    "diffusers-sample.tar": ("diffusers", "UNet2DModel (diffusers)", "vp, table of 1000 levels, scaled", 3, False, 0),
    "drunet-bias.pth": ("denoiser", "DRUNet", "direct", 3, False, 0),
    "drunet-grey.pth": ("denoiser", "DRUNet", "direct", 1, False, 0),
    "edm-adm.pkl": ("edm", "DhariwalUNet", "edm", 2, True, 5),
    "edm-ncsnpp.pkl": ("edm", "SongUNet", "edm", 1, False, 3),
    "ffdnet-colour.pth": ("denoiser", "FFDNet", "direct", 3, False, 0),
    "ffdnet-grey.pth": ("denoiser", "FFDNet", "direct", 1, False, 0),
    "iddpm-adm.pkl": ("edm", "DhariwalUNet", "iddpm", 1, False, 0),
    "inversebench-adm.pt": ("edm", "DhariwalUNet", "edm (inferred", 1, False, 0),
    "inversebench-ddpmpp.pt": ("edm", "SongUNet", "vp (inferred", 1, False, 0),
    "inversebench-vp-adm.pt": ("adm", "ADM (guided-diffusion UNet)", "vp, continuous time", 1, False, 0),
    "rectified-flow.pth": ("score_sde", "NCSN++", "score-ve", 3, False, 0),
    "score-sde-residual.pth": ("score_sde", "NCSN++", "score-ve", 1, False, 0),
    "score-sde-skip.pth": ("score_sde", "NCSN++", "score-ve", 3, False, 0),
    "torchcfm.pt": ("adm", "ADM (guided-diffusion UNet)", "flow, time from noise to data", 3, False, 0),
    "ve-ncsnpp-skip.pkl": ("edm", "SongUNet", "ve", 1, False, 0),
    "vp-ddpmpp.pkl": ("edm", "SongUNet", "vp", 3, False, 0),
}


def given(name, folder):
    """Return the name, inside `folder`, of a fixture's file or folder."""
    path = unpack_folder(name.removesuffix(".tar"), folder) if name.endswith(".tar") else unpack(name, folder)
    return f"./{path.name}"


def test_every_fixture_is_told():
    assert set(WHAT) == {file.name.removesuffix(".xz") for file in FIXTURES.glob("*.xz")}


@pytest.mark.parametrize("name", WHAT)
def test_show_says_what_a_file_is(name, tmp_path, recon, monkeypatch):
    monkeypatch.chdir(tmp_path)
    family, architecture, start, channels, is_complex, labels = WHAT[name]
    code, out, err = recon("priors", "show", given(name, tmp_path), "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["provenance"]["family"], facts["provenance"]["architecture"]) == (family, architecture)
    assert facts["provenance"]["preconditioning"].startswith(start)
    assert (facts["channels"], facts["complex_channels"]) == (channels, is_complex)
    assert facts["network"].get("labels", 0) == labels


# the published settings, few steps: presets are tuned to their priors
SETTINGS = ("steps=3", "eta=0.85", "gamma=1.0", "weighting=constant", "grid=vp", "cg_iterations=5")
METHOD = tuple(f"method.{text}" for text in SETTINGS)


class Job:
    """A measurement `NAME.h5` in the working folder, and runs on it."""

    def __init__(self, recon, truth, preset, *sets, name="y"):
        np.save("truth.npy", truth)
        self.recon, self.preset, self.measurement = recon, preset, f"{name}.h5"
        self.sets = [part for text in (*sets, "run.device=cpu", "run.threads=1") for part in ("--set", text)]
        code, _, err = recon("simulate", "truth.npy", self.measurement, "--preset", preset, *self.sets, "-q")
        assert code == 0, err

    def run(self, output, prior, *sets):
        more = [part for text in (*METHOD, *sets) for part in ("--set", text)]
        arguments = ("--preset", self.preset, "--prior", prior, *self.sets, *more)
        return self.recon("run", self.measurement, output, *arguments, "--json")

    def image(self, output, prior, *sets):
        """Return the image of a run that ends well, and that its sidecar repeats bit for bit."""
        code, out, err = self.run(output, prior, *sets)
        assert code == 0, err
        assert json.loads(out)["status"] == "ok"
        code, _, err = self.recon("rerun", f"{output}.json", f"again-{output}", "-q")
        assert code == 0, err
        found = np.load(output)
        assert np.isfinite(found).all() and np.array_equal(found, np.load(f"again-{output}"))
        return found


def picture(height=16, width=16, seed=0):
    return np.random.default_rng(seed).uniform(10, 100, (1, height, width)).astype(np.float32)


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMPLEX_MRI = ("operator.complex_image=true", "operator.acceleration=2")


def test_a_prior_of_two_channels_on_complex_mri(here, recon):
    phase = np.exp(0.4j * np.linspace(-1, 1, 16)).astype(np.complex64)
    job, prior = Job(recon, picture() * phase, "mri-x4-dds", *COMPLEX_MRI), given("adm-new-order.pt", here)
    found = job.image("out.npy", prior, "method.gamma=1000", "method.cg_iterations=20")
    assert np.iscomplexobj(found) and found.shape == (1, 16, 16)
    facts = json.loads((here / "out.npy.json").read_text())["Recon"]
    # the data are fitted: an image without its imaginary part would miss half of them
    assert facts["Residual"]["mean"][0] < 30 and np.abs(found.imag).max() > 5
    real = Job(recon, picture(), "mri-x4-dds", "operator.acceleration=2", name="real")
    code, _, err = real.run("real.npy", prior)
    assert code == 4 and "is for complex images, but the operator's images are real" in err
    assert not (here / "real.npy").exists()


def test_a_complex_prior_with_classes_on_complex_mri(here, recon):
    job = Job(recon, picture().astype(np.complex64) * 1j, "mri-x4-dds", *COMPLEX_MRI)
    prior = given("edm-adm.pkl", here)
    images = [job.image(f"{k}.npy", prior, f"prior.label={k}") for k in (0, 3)]
    assert all(np.iscomplexobj(image) for image in images) and not np.allclose(*images, rtol=1e-4)


def test_a_network_that_sees_less_than_the_margin_gives_the_same_image_by_tiles(here, recon):
    job, prior = Job(recon, picture(84, 100), "denoise-dds"), given("ffdnet-grey.pth", here)
    sets = ("prior.tile=60", "prior.overlap=40")
    code, _, err = job.run("first.npy", prior, *sets)
    assert code == 0 and "sees tiles of 60 pixels that overlap by 40" in err
    tiled, whole = job.image("tiled.npy", prior, *sets), job.image("whole.npy", prior)
    np.testing.assert_allclose(tiled, whole, rtol=1e-4, atol=1e-4 * np.abs(whole).max())
    # without a margin it sees the tiles' edges
    rough = job.image("rough.npy", prior, "prior.tile=60", "prior.overlap=0")
    assert np.abs(rough - whole).max() > 1e-3 * np.abs(whole).max()


def test_a_folder_by_tiles(here, recon):
    job, prior = Job(recon, picture(40, 56), "denoise-dds"), given("diffusers-flow.tar", here)
    tiled = job.image("tiled.npy", prior, "prior.tile=24", "prior.overlap=8")
    assert not np.array_equal(tiled, job.image("whole.npy", prior))
    code, _, err = job.run("bad.npy", prior, "prior.tile=24", "prior.overlap=24")
    assert code == 4 and "cannot overlap by 24" in err


def test_a_class_of_a_prior_that_always_takes_one(here, recon):
    job, prior = Job(recon, picture(), "denoise-dds"), given("adm-classes.pt", here)
    code, _, err = job.run("none.npy", prior)
    assert code == 4 and "needs one of its classes, 0 to 4" in err
    one, two = (job.image(f"{k}.npy", prior, f"prior.label={k}") for k in (1, 2))
    assert not np.allclose(one, two, rtol=1e-5)
    code, _, err = job.run("five.npy", prior, "prior.label=5")
    assert code == 4 and "has classes 0 to 4" in err


def test_guidance_of_a_prior_that_can_do_without_a_class(here, recon):
    job, prior = Job(recon, picture(), "denoise-dds"), given("edm-ncsnpp.pkl", here)
    kept, label = "method.eta=0.5", "prior.label=2"  # CFG++ acts on the noise that a step keeps
    none, alone = job.image("none.npy", prior, kept), job.image("alone.npy", prior, kept, label)
    weights = [job.image(f"w{w}.npy", prior, kept, label, f"prior.guidance={w}") for w in (1, 3)]
    plus = job.image("p.npy", prior, kept, label, "prior.guidance=1", "prior.guidance_mode=cfg++")
    # weight one is the class itself; a larger one goes further the same way; CFG++ is another step
    np.testing.assert_allclose(weights[0], alone, rtol=1e-3, atol=1e-2)
    for other in (none, weights[1], plus):
        assert not np.allclose(other, alone, rtol=1e-4)


def test_check_tells_how_a_prior_fits(here, recon):
    preset = here / "mine.toml"
    text = 'extends = "denoise-dds"\n[prior]\nname = "{}"\n'
    preset.write_text(text.format(given("adm-classes.pt", here)) + "label = 9\n")
    code, out, err = recon("check", "mine.toml", "--json")
    assert code == 4 and "has classes 0 to 4" in out + err
    preset.write_text(text.format(given("drunet-grey.pth", here)) + "tile = 64\noverlap = 16\n")
    code, out, err = recon("check", "mine.toml", "--json")
    assert code == 0 and "tiles of 64 pixels" in out, err
