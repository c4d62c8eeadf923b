"""Room 7: a model is asked as it was taught, once, in a dialogue, or on a whole test set.

`__init__.pyi` lists what the room itself gives; it is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
