"""What counts as the standard library's own code, however early a program has patched it.

Programs patch the logging module before fastlog is imported, too. So nothing that is in place at
the import counts as the standard library's before these functions have examined it.
"""
from cpython.function cimport PyFunction_Check


cdef inline object find_attribute(object cls, str name):
    """Return an attribute as the class or a base stores it, without binding it, or None."""
    for base in cls.__mro__:
        attributes = base.__dict__
        if name in attributes:
            return attributes[name]
    return None


cdef inline object bind_attribute(object cls, str name, object self):
    """Return what super() would return for `self` if the look-up began at `cls`.

    A patch need not be a function. It binds itself by __get__, or not at all, as a Mock.
    """
    attribute = find_attribute(cls, name)
    if attribute is None:
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
    bind = getattr(type(attribute), "__get__", None)
    return attribute if bind is None else bind(attribute, self, type(self))


cdef inline bint is_stdlib_function(object function, dict names, str qualname) except -1:
    """Return whether this is the unmodified function that a module's source defines by this name.

    names: the names in the module. A function of any other module has other globals.
    """
    if not PyFunction_Check(function) or function.__globals__ is not names:
        return False
    code = function.__code__
    return (is_source_of(code.co_filename, names["__name__"])
            and getattr(code, "co_qualname", function.__qualname__) == qualname     # from 3.11 on
            and code.co_name == qualname.rpartition(".")[2]
            and not function.__dict__         # functools.wraps() sets __wrapped__
            and has_stdlib_defaults(function))


cdef inline bint is_source_of(str filename, str module) except -1:
    """Return whether code with this co_filename comes from the module's source.

    The path is relative in frozen programs.
    """
    stem = "/" + module.replace(".", "/")
    return (("/" + filename).endswith((stem + ".py", stem + "/__init__.py"))
            or filename == f"<frozen {module}>")


cdef inline bint has_stdlib_defaults(object function) except -1:
    """Return whether the defaults are of the few values that the methods in question have."""
    for value in function.__defaults__ or ():
        if not (value is None or value is False or type(value) is int and value == 1
                or type(value) is dict and not value):
            return False
    return not function.__kwdefaults__


cdef inline bint are_stdlib_methods(object cls, dict names, dict qualnames) except -1:
    """Return whether is_stdlib_function() is true of all these methods of a class.

    qualnames: {name of the method: its qualified name, which contains the class that defines it}.
    """
    for name, qualname in qualnames.items():
        if not is_stdlib_function(find_attribute(cls, name), names, qualname):
            return False
    return True


cdef inline bint is_builtin_of(object function, object module, str name) except -1:
    """Return whether this is the built-in function that a module defines by this name."""
    return (type(function) is type(len) and function.__self__ is module
            and function.__name__ == name)
