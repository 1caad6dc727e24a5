"""The module of early versions for one device per core; importing it is an `ImportError`."""

raise ImportError(
    "parla.cpucores: import `cpu` from parla.cpu; with PARLA_CPU_ARCHITECTURE=cores in the environment each core is a device. Instead of "
    "`resources=` and `constraints=`, spawn takes `placement=`, `vcus=` and `memory=`",
    name=__name__,
)
