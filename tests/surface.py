"""The public surface of the library, for all tests that go over it."""

import inspect

import descent


def public():
    """Every public function and class, by the path under which it is imported."""
    for name in descent.__all__:
        thing = getattr(descent, name)
        if not inspect.ismodule(thing):
            yield f"descent.{name}"
            continue
        own = getattr(thing, "__all__", None) or [
            key
            for key, each in vars(thing).items()
            if not key.startswith("_") and getattr(each, "__module__", "") == thing.__name__
        ]
        for key in own:
            if inspect.isclass(getattr(thing, key)) or inspect.isfunction(getattr(thing, key)):
                yield f"descent.{name}.{key}"
