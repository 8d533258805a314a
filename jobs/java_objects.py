"""What many Java objects answer, in a few calls of the JVM: one for each object would take seconds for thousands."""

from __future__ import annotations

import json
from typing import Any


def listed(jvm: Any, array: Any) -> Any:
    """A Java list of what is in an array. (`Arrays.asList` takes an array of objects, for which py4j takes no other array.)"""
    iterators = jvm.org.apache.commons.collections4.IteratorUtils
    return iterators.toList(iterators.getIterator(array))


def each(jvm: Any, objects: Any, *getters: str) -> list[Any]:
    """For each object of a Java collection what its getter returns, then what that one's getter returns, and so on.

    Args:
        getters: public methods without arguments; the last returns a text, a number or a truth value.
    """
    collections = jvm.org.apache.commons.collections4
    for getter in getters:
        asked = collections.functors.InvokerTransformer.invokerTransformer(getter)
        objects = collections.CollectionUtils.collect(objects, asked)
    found: list[Any] = json.loads(jvm.com.fasterxml.jackson.databind.ObjectMapper().writeValueAsString(objects))
    return found
