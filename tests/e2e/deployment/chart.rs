//! The Helm chart: helm accepts it, Kubernetes knows what it renders for each scheme,
//! and what it renders fits together.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, ensure};
use functional_scaffold_testkit::repository;
use serde_json::{Map, Value};

use super::{MEMORY, deployment, exporter_variables, keys, run, spin_variables, yaml};
use crate::Result;

/// The oldest Kubernetes that the chart accepts, and newer ones.
const KUBERNETES: [&str; 3] = ["1.33", "1.35", "1.37"];

const INSTALL_HELM: &str = "install Helm (CONTRIBUTING.md)";

/// Custom resources, of which kubernetes-validate has no schemas, and the fields that the
/// chart uses of them, from the definitions of spin-operator 0.6.1 and
/// prometheus-operator 0.93. `[]` is each element of a list, `*` any key.
const CUSTOM_RESOURCES: [(&str, &str); 4] = [
    (
        "core.spinkube.dev/v1alpha1 SpinApp",
        "checks.liveness.failureThreshold number
         checks.liveness.httpGet.path string
         checks.liveness.initialDelaySeconds number
         checks.liveness.periodSeconds number
         checks.liveness.timeoutSeconds number
         checks.readiness.httpGet.path string
         checks.readiness.initialDelaySeconds number
         checks.readiness.periodSeconds number
         checks.readiness.timeoutSeconds number
         executor string
         image string
         imagePullSecrets[].name string
         podLabels.* string
         replicas number
         resources.limits.* string
         resources.requests.* string
         runtimeConfig.loadFromSecret string
         variables[].name string
         variables[].value string
         variables[].valueFrom.fieldRef.fieldPath string
         variables[].valueFrom.secretKeyRef.key string
         variables[].valueFrom.secretKeyRef.name string",
    ),
    (
        "monitoring.coreos.com/v1 PodMonitor",
        "podMetricsEndpoints[].ENDPOINT
         selector.matchLabels.* string",
    ),
    (
        "monitoring.coreos.com/v1 ServiceMonitor",
        "endpoints[].ENDPOINT
         selector.matchLabels.* string",
    ),
    // promtool checks its groups.
    ("monitoring.coreos.com/v1 PrometheusRule", "groups[].*"),
];

/// The fields for which `ENDPOINT` stands above.
const ENDPOINT: [&str; 11] = [
    "authorization.credentials.key string",
    "authorization.credentials.name string",
    "honorLabels bool",
    "interval string",
    "port string",
    "relabelings[].* string",
    "scheme string",
    "scrapeTimeout string",
    "tlsConfig.ca.secret.key string",
    "tlsConfig.ca.secret.name string",
    "tlsConfig.serverName string",
];

fn chart() -> PathBuf {
    deployment().join("chart")
}

/// The values of the tests, by name. Without any, the chart has its defaults.
fn cases() -> Result<Vec<(String, Option<PathBuf>)>> {
    let mut cases = vec![("default".to_owned(), None)];
    for entry in fs::read_dir(chart().join("ci"))? {
        let path = entry?.path();
        let name = path.file_stem().context("no name")?.to_string_lossy();
        cases.push((name.into_owned(), Some(path)));
    }
    ensure!(cases.len() > 6, "{cases:?}");
    Ok(cases)
}

fn helm(subcommand: &[&str], values: Option<&Path>) -> Command {
    let mut helm = Command::new("helm");
    helm.args(subcommand).arg(chart());
    if let Some(values) = values {
        helm.arg("--values").arg(values);
    }
    helm
}

/// The text that the chart renders for a Kubernetes.
fn render(values: Option<&Path>, kubernetes: &str) -> Result<String> {
    let mut helm = helm(&["template", "release"], values);
    let output = run(helm.args(["--kube-version", kubernetes]), INSTALL_HELM)?;
    Ok(String::from_utf8(output.stdout)?)
}

fn resources(values: Option<&Path>) -> Result<Vec<Value>> {
    let mut resources = yaml(&render(values, KUBERNETES[0])?)?;
    resources.retain(|resource| !resource.is_null());
    Ok(resources)
}

fn kind(resource: &Value) -> &str {
    resource["kind"].as_str().unwrap_or_default()
}

/// The `spec` of the first resource of this kind whose name has this suffix.
fn spec<'a>(resources: &'a [Value], of_kind: &str, suffix: &str) -> Option<&'a Value> {
    let name = format!("release{suffix}");
    let mut found = resources.iter();
    let found = found.find(|it| kind(it) == of_kind && it["metadata"]["name"] == name);
    found.map(|it| &it["spec"])
}

#[test]
fn helm_accepts_the_chart() -> Result {
    for (_, values) in cases()? {
        let mut helm = helm(&["lint", "--strict"], values.as_deref());
        run(&mut helm, INSTALL_HELM)?;
    }
    let chart = fs::read_to_string(chart().join("Chart.yaml"))?;
    let version = env!("CARGO_PKG_VERSION");
    for key in ["version", "appVersion"] {
        ensure!(chart.contains(&format!("\n{key}: {version}\n")), "{key}");
    }
    let oldest = format!("kubeVersion: \">={}.0-0\"", KUBERNETES[0]);
    ensure!(chart.contains(&oldest), "{chart}");
    Ok(())
}

#[test]
fn contradictory_values_are_refused() -> Result {
    let contradictory = [
        // The chart's own Redis has neither TLS nor ACL users.
        ("redis.tls=true", "/redis/host"),
        ("redis.exporterUser=exporter", "/redis/host"),
        ("redis.host=a,redis.caSecret=ca", "/redis/tls"),
        // The shim has no environment.
        (
            "redis.host=a,redis.tls=true,redis.caSecret=ca,app.kind=SpinApp",
            "/app/kind",
        ),
        ("app.kind=SpinApp,app.artifact=", "/app/artifact"),
        ("scheme=pull,app.replicas=1,app.kind=SpinApp", "/scheme"),
        ("scheme=pull", "/app/replicas"),
        (
            "exporter.basicSecret=a,monitoring.monitor=PodMonitor",
            "/exporter/bearerSecret",
        ),
        ("app.followLog=true", "/app/replayKeySecret"),
        ("app.keepLogBytes=32", "/app/keepLogBytes"),
        ("networkPolicy.redisCidrs={10.0.0.0/8}", "/redis/host"),
        (
            "monitoring.runbookBaseUrl=guide.md",
            "/monitoring/runbookBaseUrl",
        ),
        ("app.variables.redis_password=secret", "redis_password"),
        ("exporter.env.REDIS_URL=redis://a", "REDIS_URL"),
        ("replicas=3", "replicas"),
    ];
    for (values, place) in contradictory {
        let mut helm = helm(&["template", "release", "--set", values], None);
        let output = helm.output().context(INSTALL_HELM)?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success(), "{values} is accepted");
        ensure!(said.contains(place), "{values}:\n{said}");
    }
    Ok(())
}

#[test]
fn kubernetes_knows_the_resources() -> Result {
    for version in KUBERNETES {
        let folder = tempfile::tempdir()?;
        let mut builtin = 0;
        for (name, values) in cases()? {
            let text = render(values.as_deref(), version)?;
            let resources = yaml(&text)?;
            builtin += resources.iter().filter(|it| !is_custom(it)).count();
            fs::write(folder.path().join(name + ".yaml"), text)?;
        }
        let mut validate = Command::new("kubernetes-validate");
        validate.args(["--strict", "--kubernetes-version", version]);
        for entry in fs::read_dir(&folder)? {
            validate.arg(entry?.path());
        }
        let output = run(&mut validate, "pip install kubernetes-validate")?;
        let said = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        // It only warns of kinds that it does not know.
        assert_eq!(
            said.matches(" passed for resource ").count(),
            builtin,
            "{said}"
        );
    }
    Ok(())
}

fn is_custom(resource: &Value) -> bool {
    CUSTOM_RESOURCES
        .iter()
        .any(|(name, _)| *name == full_kind(resource))
}

fn full_kind(resource: &Value) -> String {
    let version = resource["apiVersion"].as_str().unwrap_or_default();
    format!("{version} {}", kind(resource))
}

#[test]
fn custom_resources_have_only_fields_that_their_operators_know() -> Result {
    let mut seen = BTreeSet::new();
    for (name, values) in cases()? {
        for resource in resources(values.as_deref())? {
            let full_kind = full_kind(&resource);
            let mut known = CUSTOM_RESOURCES.iter().filter(|(it, _)| *it == full_kind);
            let Some((_, fields)) = known.next() else {
                continue;
            };
            let endpoint = |prefix| ENDPOINT.map(|field| format!("{prefix}{field}"));
            let fields = fields.lines().map(str::trim).flat_map(|field| {
                let prefix = field.strip_suffix("ENDPOINT");
                prefix.map_or_else(|| vec![field.to_owned()], |it| endpoint(it).to_vec())
            });
            let fields: Vec<String> = fields.collect();
            for leaf in leaves(&resource["spec"]) {
                let is_known = fields.iter().any(|field| matches(field, &leaf));
                ensure!(is_known, "{name}: {full_kind} has no field {leaf}");
            }
            assert_eq!(keys(&resource).len(), 4, "{resource}");
            seen.insert(full_kind);
        }
    }
    assert_eq!(seen.len(), CUSTOM_RESOURCES.len(), "{seen:?}");
    Ok(())
}

/// `path type` of every value in it that is neither an object nor a list.
fn leaves(value: &Value) -> Vec<String> {
    let below = |step: &str, value: &Value| -> Vec<String> {
        let leaves = leaves(value).into_iter();
        leaves.map(|leaf| format!("{step}{leaf}")).collect()
    };
    match value {
        Value::Object(members) => {
            let members = members.iter();
            let leaves = members.flat_map(|(key, value)| below(&format!(".{key}"), value));
            leaves.collect()
        }
        Value::Array(values) => values.iter().flat_map(|it| below("[]", it)).collect(),
        Value::Null => vec![" null".to_owned()],
        Value::Bool(_) => vec![" bool".to_owned()],
        Value::Number(_) => vec![" number".to_owned()],
        Value::String(_) => vec![" string".to_owned()],
    }
}

fn matches(field: &str, leaf: &str) -> bool {
    let leaf = leaf.trim_start_matches('.');
    match field.split_once('*') {
        Some((before, after)) => leaf.starts_with(before) && leaf.ends_with(after),
        None => leaf == field,
    }
}

#[test]
fn the_rule_resource_has_the_rules_of_monitoring() -> Result {
    let values = chart().join("ci/redis-values.yaml");
    let resources = resources(Some(&values))?;
    let rules = spec(&resources, "PrometheusRule", "").context("no rules")?;
    let groups = rules["groups"].as_array().context("no groups")?;
    let rules: usize = groups
        .iter()
        .map(|group| group["rules"].as_array().map_or(0, Vec::len))
        .sum();
    let mut expected = 0;
    for file in ["recording.yaml", "alerts/rules.yaml"] {
        let text = fs::read_to_string(repository().join("monitoring").join(file))?;
        let names = ["- record: ", "- alert: "];
        expected += names
            .map(|name| text.matches(name).count())
            .iter()
            .sum::<usize>();
    }
    assert_eq!(rules, expected);
    // JSON is YAML.
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("rules.yaml");
    fs::write(&file, serde_json::json!({ "groups": groups }).to_string())?;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "rules", "--lint=all", "--lint-fatal"]);
    run(promtool.arg(file), "apt-get install prometheus")?;
    Ok(())
}

#[test]
fn alerts_link_to_runbooks_only_where_a_team_reads_them() -> Result {
    let alerts = |values: &Path| -> Result<Vec<Value>> {
        let resources = resources(Some(values))?;
        let rules = spec(&resources, "PrometheusRule", "").context("no rules")?;
        let groups = rules["groups"].as_array().context("no groups")?;
        let rules = groups.iter().flat_map(|group| group["rules"].as_array());
        let mut rules: Vec<_> = rules.flatten().cloned().collect();
        rules.retain(|rule| rule["alert"].is_string());
        ensure!(rules.len() > 20, "{rules:?}");
        Ok(rules)
    };
    for alert in alerts(&chart().join("ci/redis-values.yaml"))? {
        let name = alert["alert"].as_str().unwrap_or_default();
        let anchor = name.to_ascii_lowercase();
        let url = format!("https://wiki.example.org/functional-scaffold#runbook-{anchor}");
        assert_eq!(alert["annotations"]["runbook_url"], url);
    }
    // The mixin's own address is a placeholder.
    let folder = tempfile::tempdir()?;
    let values = folder.path().join("values.yaml");
    fs::write(&values, "monitoring: {rules: true}\n")?;
    for alert in alerts(&values)? {
        let annotations = keys(&alert["annotations"]);
        assert_eq!(annotations, BTreeSet::from(["description", "summary"]));
    }
    Ok(())
}

/// A workload of the chart.
struct Workload<'a> {
    kind: &'a str,
    labels: &'a Map<String, Value>,
    ports: Vec<&'a str>,
    /// Environment variables, for a SpinApp the variables of Spin.
    variables: Vec<&'a str>,
}

impl<'a> Workload<'a> {
    fn read(resource: &'a Value) -> Option<Self> {
        let spec = &resource["spec"];
        let pod = &spec["template"]["spec"]["containers"][0];
        let beside = &spec["template"]["spec"]["initContainers"][0];
        let names = |list: &'a Value| named(list, "name");
        let kind = kind(resource);
        Some(match kind {
            "Deployment" | "StatefulSet" => Self {
                kind,
                labels: spec["template"]["metadata"]["labels"].as_object()?,
                ports: [names(&pod["ports"]), names(&beside["ports"])].concat(),
                variables: names(&pod["env"]),
            },
            "SpinApp" => Self {
                kind,
                labels: spec["podLabels"].as_object()?,
                ports: vec![],
                variables: names(&spec["variables"]),
            },
            _ => return None,
        })
    }

    fn component(&self) -> &str {
        self.labels["app.kubernetes.io/component"]
            .as_str()
            .unwrap_or_default()
    }

    fn is_selected_by(&self, selector: &Value) -> bool {
        let selector = selector.as_object().into_iter().flatten();
        let mut selector = selector.peekable();
        selector.peek().is_some() && { selector }
            .all(|(name, value)| self.labels.get(name) == Some(value))
    }
}

#[test]
fn resources_fit_together() -> Result {
    for (name, values) in cases()? {
        let resources = resources(values.as_deref())?;
        let workloads: Vec<_> = resources.iter().filter_map(Workload::read).collect();
        ensure!(
            workloads.iter().any(|it| it.component() == "app"),
            "{name}: no app"
        );
        let selected = |selector: &Value| -> Result<&Workload> {
            let mut selected = workloads.iter().filter(|it| it.is_selected_by(selector));
            match (selected.next(), selected.next()) {
                (Some(workload), None) => Ok(workload),
                (one, other) => {
                    let count = usize::from(one.is_some()) + usize::from(other.is_some());
                    anyhow::bail!("{name}: {selector} selects {count}")
                }
            }
        };
        let mut protected = BTreeSet::new();
        for resource in &resources {
            let spec = &resource["spec"];
            let labels = &spec["selector"]["matchLabels"];
            // The selector, and the names of ports of the selected pods.
            let (selector, ports) = match kind(resource) {
                "Service" => (&spec["selector"], named(&spec["ports"], "targetPort")),
                "Deployment" | "StatefulSet" | "PodDisruptionBudget" => (labels, vec![]),
                "PodMonitor" => (labels, named(&spec["podMetricsEndpoints"], "port")),
                "NetworkPolicy" => {
                    let selector = &spec["podSelector"]["matchLabels"];
                    let ingress = spec["ingress"].as_array().context("no ingress")?;
                    let ports = ingress
                        .iter()
                        .flat_map(|rule| named(&rule["ports"], "port"));
                    protected.insert(selected(selector)?.component().to_owned());
                    for rule in spec["egress"].as_array().into_iter().flatten() {
                        let pods = &rule["to"][0]["podSelector"]["matchLabels"];
                        if !pods.is_null() {
                            let server = selected(pods)?;
                            let ports = named(&rule["ports"], "port");
                            ensure!(ports.iter().all(|port| server.ports.contains(port)));
                        }
                    }
                    (selector, ports.collect())
                }
                "ServiceMonitor" => {
                    let services = resources.iter().filter(|it| kind(it) == "Service");
                    let labels = labels.as_object().context("no labels")?;
                    let mut services = services.filter(|service| {
                        let of_service = &service["metadata"]["labels"];
                        labels
                            .iter()
                            .all(|(name, value)| &of_service[name] == value)
                    });
                    let service = services.next().context("no service")?;
                    ensure!(services.next().is_none(), "{name}: two services");
                    let ports = named(&service["spec"]["ports"], "name");
                    for port in named(&spec["endpoints"], "port") {
                        ensure!(ports.contains(&port), "{name}: no port {port}");
                    }
                    continue;
                }
                _ => continue,
            };
            let workload = selected(selector)?;
            for port in ports {
                ensure!(workload.ports.contains(&port), "{name}: no port {port}");
            }
        }
        let components: BTreeSet<_> = workloads
            .iter()
            .map(|it| it.component().to_owned())
            .collect();
        assert_eq!(protected, components, "{name}: without a NetworkPolicy");
        for workload in workloads {
            check_variables(&workload).with_context(|| name.clone())?;
        }
    }
    Ok(())
}

/// The values of `key` in a list that are texts: the names of ports.
fn named<'a>(list: &'a Value, key: &str) -> Vec<&'a str> {
    let list = list.as_array().into_iter().flatten();
    list.filter_map(|it| it[key].as_str()).collect()
}

fn check_variables(workload: &Workload) -> Result {
    let declared = spin_variables()?;
    let known = exporter_variables()?;
    for &name in &workload.variables {
        let spin = match workload.kind {
            "SpinApp" => Some(name.to_owned()),
            _ => name.strip_prefix("SPIN_VARIABLE_").map(str::to_lowercase),
        };
        let is_known = match workload.component() {
            "app" => spin.is_none_or(|it| declared.contains(&it)),
            "exporter" => known.contains(name),
            _ => true,
        };
        ensure!(is_known, "{} has no variable {name}", workload.component());
    }
    Ok(())
}

#[test]
fn the_container_that_follows_the_log_is_watched_and_protected() -> Result {
    let values = chart().join("ci/follow-values.yaml");
    let resources = resources(Some(&values))?;
    let pod = &spec(&resources, "Deployment", "").context("no app")?["template"]["spec"];
    let follow = &pod["initContainers"][0];
    let port = &follow["ports"][0]["containerPort"];
    let variables = follow["env"].as_array().context("no variables")?;
    let variable = |name: &str| {
        let mut variables = variables.iter();
        variables
            .find(|it| it["name"] == name)
            .map(|it| &it["value"])
    };
    let listen = format!("0.0.0.0:{port}");
    assert_eq!(variable("EXPORTER_LISTEN"), Some(&Value::from(listen)));
    let known = exporter_variables()?;
    for name in named(&follow["env"], "name") {
        ensure!(known.contains(name), "the exporter has no variable {name}");
    }
    // It must restart, and must not take the app out of its Service.
    let probe = &follow["livenessProbe"]["httpGet"];
    let expected = serde_json::json!({"path": "/healthz", "port": "metrics", "scheme": "HTTPS"});
    assert_eq!(*probe, expected);
    ensure!(follow["readinessProbe"].is_null(), "{follow}");

    // The same credentials and certificate as the exporter's.
    let files = |pod: &Value, container: &Value| -> Result<BTreeSet<String>> {
        let mounts = container["volumeMounts"].as_array().context("no mounts")?;
        let mut mounts = mounts.iter();
        let mount = mounts.find(|it| it["mountPath"] == "/etc/exporter");
        let volumes = pod["volumes"].as_array().context("no volumes")?;
        let name = &mount.context("no mount")?["name"];
        let volume = volumes.iter().find(|it| it["name"] == *name);
        let sources = volume.context("no volume")?["projected"]["sources"].as_array();
        let items = sources.context("no sources")?.iter();
        let items = items.flat_map(|source| named(&source["secret"]["items"], "path"));
        Ok(items.map(|path| format!("/etc/exporter/{path}")).collect())
    };
    let of_follow = files(pod, follow)?;
    for name in [
        "EXPORTER_AUTH_BEARER_FILE",
        "EXPORTER_TLS_CERT_FILE",
        "EXPORTER_TLS_KEY_FILE",
        "REDIS_PASSWORD_FILE",
        "REPLAY_KEY_FILE",
    ] {
        let file = variable(name).and_then(Value::as_str);
        ensure!(
            file.is_some_and(|it| of_follow.contains(it)),
            "{name}: {file:?}"
        );
    }
    let monitor = spec(&resources, "PodMonitor", "-follow").context("no monitor")?;
    let endpoint = &monitor["podMetricsEndpoints"][0];
    assert_eq!(endpoint["port"], follow["ports"][0]["name"]);
    let of_exporter = spec(&resources, "ServiceMonitor", "-exporter").context("no monitor")?;
    for key in ["authorization", "scheme", "tlsConfig"] {
        ensure!(
            endpoint[key].is_object() || endpoint[key] == "https",
            "{endpoint}"
        );
        assert_eq!(endpoint[key], of_exporter["endpoints"][0][key], "{key}");
    }
    let labels = endpoint["relabelings"].as_array().context("no labels")?;
    for (label, value) in [("job", "functional_scaffold"), ("scheme", "follow")] {
        let mut labels = labels.iter();
        let set = labels.find(|it| it["targetLabel"] == label);
        assert_eq!(set.context("not set")?["replacement"], value);
    }
    // Only Prometheus reaches it.
    let policy = spec(&resources, "NetworkPolicy", "").context("no policy")?;
    let ingress = policy["ingress"].as_array().context("no ingress")?;
    for rule in ingress {
        let ports = rule["ports"].as_array().context("every port is open")?;
        let is_open = ports.iter().any(|it| it["port"] == *port);
        assert_eq!(is_open, !rule["from"].is_null(), "{rule}");
    }
    assert_eq!(ingress.len(), 2, "{ingress:?}");
    let app = &pod["containers"][0]["env"];
    let app = app.as_array().context("no variables")?;
    let kept = app.iter().find(|it| it["name"] == "KEEP_LOG_BYTES");
    assert_eq!(kept.context("not set")?["value"], "134217728");
    Ok(())
}

#[test]
fn dns_and_the_network_of_an_external_redis_can_be_set() -> Result {
    let values = chart().join("ci/follow-values.yaml");
    let resources = resources(Some(&values))?;
    for suffix in ["", "-exporter"] {
        let policy = spec(&resources, "NetworkPolicy", suffix).context("no policy")?;
        let egress = policy["egress"].as_array().context("no egress")?;
        let dns = egress[0]["ports"].as_array().context("no ports")?.iter();
        let dns: Vec<_> = dns
            .map(|it| (it["port"].as_u64(), it["protocol"].as_str()))
            .collect();
        let expected = [53, 5353]
            .into_iter()
            .flat_map(|port| ["UDP", "TCP"].map(|protocol| (Some(port), Some(protocol))));
        assert_eq!(dns, expected.collect::<Vec<_>>());
        let redis = serde_json::json!({
            "ports": [{"port": 6379}],
            "to": [{"ipBlock": {"cidr": "10.0.7.0/24"}}],
        });
        assert_eq!(egress[1..], [redis], "{suffix}");
    }
    Ok(())
}

#[test]
fn redis_refuses_writes_before_its_container_is_out_of_memory() -> Result {
    let resources = resources(None)?;
    let redis = spec(&resources, "StatefulSet", "-redis").context("no Redis")?;
    let container = &redis["template"]["spec"]["containers"][0];
    let command = container["args"][0].as_str().context("no command")?;
    let option = |name: &str| {
        let mut words = command.split(' ').skip_while(|word| *word != name).skip(1);
        words
            .next()
            .with_context(|| format!("no {name}: {command}"))
    };
    let bytes = |text: &str, unit: &str| -> Result<u64> {
        let number = text.strip_suffix(unit);
        Ok(number.with_context(|| text.to_owned())?.parse()?)
    };
    let limit = container["resources"]["limits"]["memory"].as_str();
    let limit = bytes(limit.context("no limit")?, "Mi")?;
    // A rewrite of the append-only file can copy every page.
    ensure!(
        bytes(option("--maxmemory")?, "mb")? * 2 <= limit,
        "{command}"
    );
    assert_eq!(option("--maxmemory-policy")?, "noeviction");
    assert_eq!(option("--appendonly")?, "yes");
    Ok(())
}

#[test]
fn the_app_has_limits_in_a_deployment_and_in_a_spin_app() -> Result {
    let deployment = resources(None)?;
    let app = spec(&deployment, "Deployment", "").context("no app")?;
    let app = &app["template"]["spec"]["containers"][0];
    let arguments = app["args"].as_array().context("no arguments")?;
    let timeout = arguments
        .iter()
        .position(|word| word == "--request-timeout");
    let timeout = timeout.and_then(|at| arguments.get(at + 1));
    assert_eq!(timeout.and_then(Value::as_str), Some("90s"));
    let variables = app["env"].as_array().context("no variables")?;
    let mut variables = variables.iter();
    let memory = variables.find(|it| it["name"] == "SPIN_MAX_INSTANCE_MEMORY");
    assert_eq!(memory.context("no limit")?["value"], MEMORY);

    let values = chart().join("ci/spinapp-values.yaml");
    let spin_app = resources(Some(&values))?;
    let app = spec(&spin_app, "SpinApp", "").context("no app")?;
    let mut secrets = spin_app.iter();
    let secret = secrets.find(|it| {
        kind(it) == "Secret" && it["metadata"]["name"] == app["runtimeConfig"]["loadFromSecret"]
    });
    let settings = &secret.context("no secret")?["stringData"]["runtime-config.toml"];
    assert_eq!(*settings, format!("max_instance_memory = {MEMORY}\n"));
    Ok(())
}
