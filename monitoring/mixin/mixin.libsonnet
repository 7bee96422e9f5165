// The mixin: import it, and set parameters in `_config` (config.libsonnet).
(import 'config.libsonnet')
+ (import 'recording.libsonnet')
+ (import 'alerts.libsonnet')
+ (import 'dashboard.libsonnet')
