"""A scaled pipeline stands for its pipeline: attributes, methods, `isinstance`, copies and pickles."""

from __future__ import annotations

import copy
import functools
import inspect
import pickle
from collections.abc import Callable
from dataclasses import fields, replace
from types import FunctionType, MethodType
from typing import Any

from genscale.errors import UsageError
from genscale.pipelines.call_signature import python_signature
from genscale.pipelines.search_settings import SearchSettings

_SETTINGS = tuple(f.name for f in fields(SearchSettings))


class StandsForPipeline:
    """What is not a setting of the search is an attribute of the pipeline: read, set and deleted there.

    A method of the pipeline that returns the pipeline itself (`to`, `enable_vae_tiling`, ...) returns this object, so
    that the search is not lost. A copy has a copy of the pipeline, as deep as was asked for, and the same search;
    sampler, verifiers and callbacks are shared.
    """

    settings: SearchSettings

    def __init__(self, settings: SearchSettings) -> None:
        object.__setattr__(self, "settings", settings)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The pipeline's, for `isinstance`."""
        return self.settings.pipe.__class__  # type: ignore[no-any-return]

    @property
    def __signature__(self) -> inspect.Signature:
        return python_signature(self.settings.pipe)

    def __getattr__(self, name: str) -> Any:
        settings = self.__dict__.get("settings")
        if settings is None or (name.startswith("__") and name.endswith("__")):
            raise AttributeError(name)
        if name in _SETTINGS:
            return getattr(settings, name)
        value = getattr(settings.pipe, name)
        return self._returning(value) if _is_method(value) else value

    def __setattr__(self, name: str, value: Any) -> None:
        self._refuse_setting(name)
        setattr(self.settings.pipe, name, value)

    def __delattr__(self, name: str) -> None:
        self._refuse_setting(name)
        delattr(self.settings.pipe, name)

    def __dir__(self) -> list[str]:
        return sorted({*dir(type(self)), *_SETTINGS, *dir(self.settings.pipe)})

    def __repr__(self) -> str:
        settings, roles = self.settings, self.settings.roles
        parts = [type(settings.pipe).__name__, repr(settings.sampler)]
        parts += [f"{role}={list(s.names)}" for role, s in roles.named.items() if s.names]
        parts += [f"budget='{settings.budget}'"] if str(settings.budget) != "none" else []
        return f"genscale.scale({', '.join(parts)})"

    def __copy__(self) -> Any:
        return type(self)(replace(self.settings, pipe=copy.copy(self.settings.pipe)))

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        pipe, models = copy.deepcopy((self.settings.pipe, self.settings.models), memo)
        return type(self)(replace(self.settings, pipe=pipe, models=models))

    def __reduce_ex__(self, protocol: Any) -> Any:
        """UsageError: a function that was given to `scale` cannot be pickled."""
        settings = self.settings
        given: dict[str, Any] = {"on_event": settings.on_event, "halt": settings.halt}
        for verifiers in settings.roles.all:
            given |= {f"verifier '{m.name}'": m.verifier for m in verifiers.members}
        for name, value in given.items():
            try:
                if isinstance(value, MethodType | FunctionType):
                    pickle.dumps(value)
            except Exception as error:
                raise UsageError(
                    f"the {name} of this scaled pipeline cannot be pickled ({error}): define it by name in a module, "
                    "or pickle the pipeline alone and scale it again."
                ) from error
        return type(self), (settings,)

    def _returning(self, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def call(*args: Any, **kwargs: Any) -> Any:
            result = method(*args, **kwargs)
            return self if result is self.settings.pipe else result

        return call

    def _refuse_setting(self, name: str) -> None:
        if name == "settings" or name in _SETTINGS:
            raise UsageError(
                f"'{name}' of a scaled pipeline is fixed: make another one, genscale.scale(scaled.pipe, ...); all "
                "other attributes are set on the pipeline."
            )


def _is_method(value: Any) -> bool:
    """Whether it is a function or a method of an object, which may return the pipeline."""
    bound_to_object = isinstance(value, MethodType) and not inspect.isclass(value.__self__)
    return bound_to_object or isinstance(value, FunctionType)
