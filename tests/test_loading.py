"""Pipelines from a name, and where and how they run."""

import json
from pathlib import Path

import pytest
import torch

import genscale
from genscale.errors import UsageError
from genscale.pipelines import checkpoints, placement
from genscale.pipelines.loading import EMBEDDED, folder_of, load_pipeline, takes
from tests.zoo import ZOO


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of tiny pipelines by name of the zoo."""
    root = tmp_path_factory.mktemp("zoo")
    for name in ("stable_diffusion", "sd3"):
        ZOO[name].build().save_pretrained(root / name)
    return root


class Recorder:
    """Notes every call of any method."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


# ------------------------------------------------------------------------------------------- from where


@pytest.mark.parametrize("name", EMBEDDED)
def test_embedded_models(name):
    if not (folder_of(name) / "model_index.json").is_file():
        pytest.skip("not trained yet")
    pipe = load_pipeline(name, device="cpu")
    assert pipe.dtype == torch.float32
    assert {"prompt", "num_inference_steps", "guidance_scale"} <= takes(pipe)


def test_load_pipeline_is_at_the_top():
    assert genscale.load_pipeline is load_pipeline


def test_folder(folders):
    pipe = load_pipeline(str(folders / "stable_diffusion"), device="cpu", dtype="bf16")
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert pipe.unet.dtype == torch.bfloat16
    assert load_pipeline(folders.joinpath("sd3").as_posix(), device="cpu").dtype == torch.float32


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("shape-flow", r"model 'shape-flow' is unknown \(did you mean 'shapes-flow'\?\)"),
        ("./nowhere", "is unknown"),
        ("nowhere.ckpt", "does not exist"),
        ("FOLDER", "not a diffusers pipeline: it has no model_index.json"),
        ("FOLDER/notes.txt", "must be a .safetensors or .ckpt file"),
        ("FOLDER/torn.safetensors", "cannot be read"),
    ],
)
def test_what_is_no_model(model, sentence, tmp_path):
    (tmp_path / "notes.txt").write_text("nothing")
    (tmp_path / "torn.safetensors").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=sentence):
        load_pipeline(model.replace("FOLDER", str(tmp_path)), device="cpu")


def test_broken_folder_is_a_sentence(folders, tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "NoSuchPipeline"}))
    with pytest.raises(UsageError, match="cannot be loaded"):
        load_pipeline(str(tmp_path), device="cpu")


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("ConnectError", "not on this machine, and the hub cannot be reached"),
        ("LocalEntryNotFoundError", "not on this machine, and the hub cannot be reached"),
        ("GatedRepoError", "is gated"),
        ("RepositoryNotFoundError", "is not on the hub"),
        ("SomethingElse", "cannot be loaded: first"),
    ],
)
def test_hub_errors_are_sentences(name, sentence, monkeypatch):
    """diffusers wraps them in an OSError of many lines."""
    import diffusers

    def fail(*args, **kwargs):
        try:
            raise type(name, (Exception,), {})("first\nsecond")
        except Exception as error:
            raise OSError("first\nsecond") from error

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", fail)
    with pytest.raises(UsageError, match=sentence) as refusal:
        load_pipeline("owner/name", device="cpu")
    assert "\n" not in str(refusal.value)


def test_hub_arguments_go_through(monkeypatch):
    import diffusers

    seen = {}

    def record(source, **kwargs):
        seen.update(kwargs, source=source)
        return ZOO["stable_diffusion"].build()

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", record)
    load_pipeline(
        "owner/name", device="cpu", variant="fp16", revision="r1", token="t", trust_remote_code=True
    )
    assert (seen["source"], seen["variant"], seen["revision"]) == ("owner/name", "fp16", "r1")
    assert (seen["token"], seen["trust_remote_code"]) == ("t", True)
    assert torch.float32 in seen.values()


def test_single_file_takes_class_and_settings_of_its_kind(folders, tmp_path, monkeypatch):
    import diffusers
    from diffusers.loaders import single_file_utils
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    kind = {"pretrained_model_name_or_path": str(folders / "stable_diffusion")}
    monkeypatch.setattr(single_file_utils, "fetch_diffusers_config", lambda checkpoint: dict(kind))
    seen = {}

    def record(path, **kwargs):
        seen.update(kwargs, path=path)
        return ZOO["stable_diffusion"].build()

    monkeypatch.setattr(diffusers.StableDiffusionPipeline, "from_single_file", record)
    pipe = load_pipeline(str(tmp_path / "model.safetensors"), device="cpu")
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    assert Path(seen["path"]).name == "model.safetensors"
    assert seen["config"] == str(folders / "stable_diffusion")


def test_single_file_whose_settings_are_not_here(tmp_path, monkeypatch):
    import diffusers
    from safetensors.torch import save_file

    def offline(*args, **kwargs):
        raise OSError("We couldn't connect to the hub\nfor something")

    save_file({"x": torch.zeros(1)}, tmp_path / "model.safetensors")
    monkeypatch.setattr(diffusers.DiffusionPipeline, "load_config", offline)
    with pytest.raises(UsageError, match="hub cannot be reached"):
        checkpoints.load(str(tmp_path / "model.safetensors"), torch.float32, {})


# ---------------------------------------------------------------------------------------- sisters and LoRA


@pytest.mark.parametrize(
    ("name", "given", "sister"),
    [
        ("stable_diffusion", ["image"], "StableDiffusionImg2ImgPipeline"),
        ("stable_diffusion", ["image", "mask_image"], "StableDiffusionInpaintPipeline"),
        ("sd3", ["image"], "StableDiffusion3Img2ImgPipeline"),
        ("sd3", [], "StableDiffusion3Pipeline"),
    ],
)
def test_pictures_choose_the_sister(name, given, sister, folders):
    assert type(load_pipeline(str(folders / name), device="cpu", images=given)).__name__ == sister


def test_pipeline_without_a_sister(tmp_path):
    ZOO["wan"].build().save_pretrained(tmp_path)
    with pytest.raises(UsageError, match="WanPipeline takes no mask_image, and has no sister that does"):
        load_pipeline(str(tmp_path), device="cpu", images=["mask_image"])


def test_lora_with_a_scale(folders, tmp_path):
    peft = pytest.importorskip("peft")
    import diffusers

    pipe = load_pipeline(str(folders / "stable_diffusion"), device="cpu")
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False))
    layers = peft.utils.get_peft_model_state_dict(pipe.unet)
    diffusers.StableDiffusionPipeline.save_lora_weights(tmp_path, unet_lora_layers=layers)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    scaled = load_pipeline(
        str(folders / "stable_diffusion"), device="cpu", lora=[f"{file}:0.5", str(tmp_path)]
    )
    assert scaled.get_active_adapters() == ["lora0", "lora1"]
    layer = next(m for m in scaled.unet.modules() if hasattr(m, "scaling"))
    assert layer.scaling["lora1"] == 2 * layer.scaling["lora0"]


def test_lora_that_is_not_there(folders):
    with pytest.raises(UsageError, match="LoRA 'nowhere' cannot be loaded"):
        load_pipeline(str(folders / "stable_diffusion"), device="cpu", lora=["nowhere:0.5"])


# --------------------------------------------------------------------------------------- where and how


def test_device_and_dtype_defaults():
    cpu = torch.device("cpu")
    assert placement.dtype_of("auto", cpu) == torch.float32
    assert placement.dtype_of(None, torch.device("mps")) == torch.float16
    assert placement.dtype_of(torch.float16, cpu) == torch.float16
    best = "cuda" if torch.cuda.is_available() else placement.device_of(None).type
    assert placement.device_of(None).type == best


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"device": "toaster"}, "device 'toaster' is unknown"),
        ({"device": "cuda:77"}, "no such accelerator"),
        ({"dtype": "int8"}, "dtype 'int8' is unknown"),
        ({"dtype": "nn"}, "dtype 'nn' is unknown"),
        ({"offload": "grup", "device": "cpu"}, "did you mean 'group'"),
        ({"offload": "group", "device": "cpu"}, "there is no accelerator here"),
    ],
)
def test_refused_before_anything_is_loaded(options, sentence, monkeypatch):
    monkeypatch.setattr(checkpoints, "load", lambda *a, **k: pytest.fail("was loaded"))
    with pytest.raises(UsageError, match=sentence):
        load_pipeline("shapes-flow", **options)


@pytest.mark.parametrize(
    ("how", "method"),
    [
        ("model", "enable_model_cpu_offload"),
        ("sequential", "enable_sequential_cpu_offload"),
        ("group", "enable_group_offload"),
    ],
)
def test_offload(how, method):
    pipe = Recorder()
    placement.offload(pipe, how, torch.device("cuda"))
    assert [name for name, _, _ in pipe.calls] == [method]


def test_attention(folders, monkeypatch):
    from diffusers import UNet2DConditionModel

    load_pipeline(str(folders / "sd3"), device="cpu", attention="native")
    load_pipeline(str(folders / "stable_diffusion"), device="cpu", attention="native")
    used = []
    monkeypatch.setattr(
        UNet2DConditionModel, "enable_xformers_memory_efficient_attention", lambda self: used.append(self)
    )
    pipe = load_pipeline(str(folders / "stable_diffusion"), device="cpu", attention="xformers")
    assert used == [pipe.unet]


@pytest.mark.parametrize(
    ("name", "attention", "sentence"),
    [
        ("stable_diffusion", "flash", "for transformers: a U-Net takes xformers or native"),
        ("sd3", "flahs", "attention 'flahs' is unknown .*did you mean 'flash'"),
        ("sd3", "sage", "cannot be used here|needs a package"),
    ],
)
def test_attention_that_cannot_be(name, attention, sentence, folders):
    with pytest.raises(UsageError, match=sentence):
        load_pipeline(str(folders / name), device="cpu", attention=attention)


def test_compile_takes_repeated_blocks_where_they_are_named():
    class Pipe:
        transformer, unet = Recorder(), Recorder()

    Pipe.transformer._repeated_blocks, Pipe.unet._repeated_blocks = ["Block"], None
    Pipe.transformer.parameters = Pipe.unet.parameters = ()
    placement.compile_denoisers(Pipe)
    assert [name for name, _, _ in Pipe.transformer.calls] == ["compile_repeated_blocks"]
    assert [name for name, _, _ in Pipe.unet.calls] == ["compile"]
