import pytest
import torch

from fvv_lib import FvvError, ModelFolderError, random_fastvlm
from fvv_lib.model.geometry import tokens_per_frame
from fvv_lib.model.video_model import FastVlmForVideo
from fvv_lib.scaling.released import full_size_config
from fvv_lib.weights.apple import RELEASED_TOWER, tower_sizes


@pytest.mark.parametrize(("size", "billions"), [("0.5b", 0.62), ("1.5b", 1.67), ("7b", 7.76)])
def test_parameter_counts_match_the_release(size, billions):
    with torch.device("meta"):
        model = FastVlmForVideo(full_size_config(size))
    assert sum(parameter.numel() for parameter in model.parameters()) / 1e9 == pytest.approx(billions, abs=0.01)
    assert tokens_per_frame(model.config, 1024) == model.config.image_seq_length == 256
    assert model.config.text_config.rope_parameters["rope_theta"] == 1e6


def test_a_tower_that_lacks_its_last_block_is_an_error():
    with torch.device("meta"):
        weights = FastVlmForVideo(full_size_config()).state_dict()
    assert tower_sizes(weights, "here") == RELEASED_TOWER
    weights = {name: tensor for name, tensor in weights.items() if "stages.2.blocks.23." not in name}
    with pytest.raises(ModelFolderError, match=r"blocks per stage: \[2, 12, 23, 4, 2\], released: \[2, 12, 24, 4, 2\]"):
        tower_sizes(weights, "here")


def test_an_unknown_size_is_an_error_that_lists_the_sizes():
    with pytest.raises(FvvError, match=r"'3b': choose one of 0\.5b, 1\.5b, 7b"):
        random_fastvlm("3b")


@torch.no_grad()
def test_pixels_change_the_logits_and_models_of_one_seed_are_equal():
    config = full_size_config()
    config.vision_config.model_args |= {"embed_dims": [12, 24, 48, 96, 192]}  # an eighth of the width
    config.vision_config.hidden_size = 384
    config.text_config.num_hidden_layers, config.text_config.vocab_size = 2, 1000
    config.text_config.layer_types = ["full_attention"] * 2
    model, again = random_fastvlm(config), random_fastvlm(config)
    assert not model.training
    ids = torch.tensor([[5, -200, 6]])
    one, other = (torch.randint(0, 256, (1, 1, 3, 128, 128), dtype=torch.uint8) for _ in range(2))
    logits = model(ids, one).logits
    assert torch.equal(again(ids, one).logits, logits)
    assert (model(ids, other).logits - logits)[0, -1].abs().max() > 1e-2
    assert random_fastvlm(config, dtype=torch.bfloat16).dtype == torch.bfloat16
