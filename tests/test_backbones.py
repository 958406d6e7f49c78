"""Which networks verifiers see with, and the warning where a held-out one shares the network of a searched one."""

import warnings

import pytest

import genscale
from genscale.engine.backbones import backbones, shared_backbones
from genscale.engine.verifier_roles import Roles, VerifierSet, WeightedVerifier
from genscale.errors import UsageError
from genscale.plugins import registry
from genscale.verifiers.aesthetic import Aesthetic
from genscale.verifiers.boxes import Boxes
from genscale.verifiers.clip import Clip, ShapesClip
from genscale.verifiers.clip_backbone import clip_backbone
from genscale.verifiers.frames import Frames
from genscale.verifiers.hps import Hps
from genscale.verifiers.pickscore import PickScore
from tests.zoo import ZOO

WITHOUT = {"compressibility", "dynamic_degree", "shapes", "moving_shapes", "silence", "clipping", "answers"}
FROM_FOLDERS = {"calibrated", "learned_preview", "measured"}
WRAPPERS = {"boxes"}


def test_every_registered_verifier_with_a_network_names_it():
    for name in set(registry.found("verifier")) - FROM_FOLDERS - WRAPPERS:
        made = registry.make("verifier", name, {})
        if hasattr(made, "load") or hasattr(made, "_load_on"):
            assert backbones(made), name
        if name in WITHOUT:
            assert not backbones(made), name


def test_one_checkpoint_has_one_name_in_both_libraries():
    assert clip_backbone("ViT-L-14", "openai") == clip_backbone("openai/clip-vit-large-patch14", None)
    assert clip_backbone("ViT-L-14-quickgelu", "openai") == clip_backbone("ViT-L-14", "openai")
    assert clip_backbone("ViT-L-14", "openai") != clip_backbone("ViT-L-14", "laion2b_s32b_b82k")
    assert clip_backbone("hf-hub:laion/CLIP-ViT-H-14-laion2B-s32B-b79K", "openai") == PickScore().backbone
    assert clip_backbone("someone/other", None) == "CLIP someone/other"


@pytest.mark.parametrize(
    ("searched", "reported", "shared"),
    [
        (Clip(), Aesthetic(), True),
        (PickScore(), Hps(), True),
        (Clip(), PickScore(), False),
        (Clip(), Aesthetic(clip="ViT-B-32"), False),
        (Frames(Clip()), Aesthetic(), True),
        (Boxes(ShapesClip(), []), ShapesClip(dtype="float64"), True),
        (lambda media, prompts: [0.0] * len(prompts), Aesthetic(), False),
    ],
)
def test_a_report_by_the_same_backbone_is_warned_of(searched, reported, shared):
    steering = VerifierSet((WeightedVerifier("searched", searched),))
    roles = [Roles(search=steering), Roles(select=steering), Roles(guard=steering)]
    for role in roles:
        both = Roles(
            role.search, role.select, VerifierSet((WeightedVerifier("reported", reported),)), role.guard
        )
        found = shared_backbones(both)
        assert len(found) == shared
        if shared:
            assert "'reported' reports and 'searched' steers" in found[0]


def test_a_backbone_that_is_no_name_is_refused():
    class Odd:
        backbone = (1, 2)

    with pytest.raises(UsageError, match=r"backbone=.* of Odd must be the name"):
        backbones(Odd())


def test_scale_warns_before_anything_is_spent():
    pipe, held_out = ZOO["stable_diffusion"].build(), Frames("shapes_clip")
    with pytest.warns(UserWarning, match="both see with shapes-clip"):
        genscale.scale(pipe, "best_of_n", "shapes_clip", held_out=held_out)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        genscale.scale(pipe, "best_of_n", "shapes_clip", held_out="shapes")
