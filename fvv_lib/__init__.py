"""fvv_lib: teach FastVLM to watch video.

Lesson N is room N: the rooms follow the way that a video takes to become a loss, an answer, and a model elsewhere.
Public names import from here. `__init__.pyi` lists them for type checkers and for `lazy_loader`, which loads each when
it is first used: `import fvv_lib` does not import torch.
"""

import lazy_loader

__version__ = "0.1.0"

#: The rooms by lesson. Lesson 0 needs none of its own.
LESSONS = {
    1: "video",
    2: "prompt",
    3: "labels",
    4: "model",
    5: "data",
    6: "finetuning",
    7: "evaluation",
    8: "weights",
    9: "scaling",
}

__getattr__, _, _public = lazy_loader.attach_stub(__name__, __file__)
__all__ = sorted([*_public, "LESSONS", "__version__"])


def __dir__() -> list[str]:
    return __all__
