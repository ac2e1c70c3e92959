from enum import Enum

class DurabilityPolicy(Enum):
    TRANSIENT_LOCAL = 1
    VOLATILE = 2

class QoSProfile:
    def __init__(self, *, depth: int = ..., durability: DurabilityPolicy = ...) -> None: ...

qos_profile_sensor_data: QoSProfile
