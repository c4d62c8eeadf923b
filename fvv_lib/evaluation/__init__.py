"""Room 7: ask a model in the way it was trained, once, in a dialogue, or on a whole test set.

`__init__.pyi` lists the public names of this package. Each is loaded when it is first used.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
