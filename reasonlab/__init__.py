"reasonlab: an executable book on entailment and reasoning in language models, and the library it exports"
__version__ = "0.1.0"


def __getattr__(name):
    "Load the front door (`verify`, `judge`, `classify`, `factcheck`, `trace`) on first use: importing reasonlab costs nothing"
    from .core import front_door
    return front_door(name)


def __dir__(): return sorted(["__version__", "verify", "judge", "classify", "factcheck", "trace"])
