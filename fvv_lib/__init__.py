"""fvv_lib: teach FastVLM to watch video.

Lesson N is about room N. The rooms follow a video on its way to a loss, to an answer, and to a model in other programs.
All public names can be imported from here. `__init__.pyi` lists them for type checkers and for `lazy_loader`, which
loads each name on first use. `import fvv_lib` does not import torch.
"""

import lazy_loader

__version__ = "0.1.0"

#: The room of each lesson. Lesson 0 has no room.
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
