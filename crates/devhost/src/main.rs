//! `devhost`: runs a Spin application where the Spin CLI is not installed.
//!
//! Applications behave as on Spin 4.1, with these exceptions: a limit ends components
//! that compute for too long, responses leave without delay (`TCP_NODELAY`), and
//! connections are limited in number and idle time. Dependencies cannot create sockets,
//! clients cannot set the headers that describe a route, and an address of outbound
//! Redis is read once, by the library that opens it.
//!
//! # Layout
//!
//! - `manifest`: `spin.toml`, and which parts of it are refused
//! - `variables`: variables and `{{ }}` templates
//! - `allowed_hosts`: `allowed_outbound_hosts`
//! - `component`: a component's settings
//! - `capabilities`: what a component inherits of the one it is composed with
//! - `dependencies`: composes components with dependencies and middleware, and denies
//!   those capabilities
//! - `engine`: wasmtime, from wasm files to services
//! - `platform`: what components can import
//! - `outbound_http`, `outbound_redis`: two of these imports
//! - `instance`, `execution_limit`: instances, their reuse and their end
//! - `routes`, `server`: from a connection to a component

mod allowed_hosts;
mod capabilities;
mod component;
mod dependencies;
mod engine;
mod execution_limit;
mod instance;
mod manifest;
mod outbound_http;
mod outbound_redis;
mod platform;
mod routes;
mod server;
mod variables;

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Semaphore;
use wasmtime_wasi_http::handler::ProxyHandler;

use crate::allowed_hosts::AllowedHosts;
use crate::component::ComponentSettings;
use crate::instance::{Instances, ReuseOptions, parse_duration};
use crate::manifest::App;
use crate::outbound_http::HttpClient;
use crate::routes::Routes;
use crate::server::{ConnectionOptions, Server};
use crate::variables::{ValueSources, Variables};

/// Runs a Spin application on wasmtime where the Spin CLI is not installed:
/// for development, tests and benchmarks.
#[derive(Parser)]
#[command(name = "devhost", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a Spin application, as `spin up` does.
    ///
    /// Options that `spin up` also has mean the same. Manifests can have HTTP
    /// triggers, WASI 0.3 components from files with their dependencies and
    /// middleware, variables, environment, and outbound HTTP and Redis. Anything else is
    /// refused by name.
    Up(Up),
}

#[derive(Args)]
struct Up {
    /// The manifest, or the folder with its spin.toml.
    #[arg(short, long, value_name = "PATH", default_value = "spin.toml")]
    from: PathBuf,

    /// Address and port to listen on; port 0 picks a free one.
    #[arg(
        long,
        value_name = "ADDRESS",
        env = "SPIN_HTTP_LISTEN_ADDR",
        default_value = "127.0.0.1:3000",
        value_parser = parse_address
    )]
    listen: SocketAddr,

    /// If the port is in use, search for a free one above it.
    #[arg(long)]
    find_free_port: bool,

    /// Set an application variable: key=value, key=@file with the value, or
    /// @file.json or @file.toml with several. Variables can also be set as
    /// SPIN_VARIABLE_ and the upper-case key, in the environment or .env of the
    /// working directory.
    #[arg(long, value_name = "VARIABLE")]
    variable: Vec<String>,

    /// Set an environment variable of all components: KEY=VALUE.
    #[arg(short, long, value_name = "KEY=VALUE", value_parser = parse_pair)]
    env: Vec<(String, String)>,

    /// Drop what components write to stdout and stderr. Otherwise both go to
    /// stderr, unchanged.
    #[arg(short, long)]
    quiet: bool,

    /// Compile components at each start, without wasmtime's cache.
    #[arg(long, env = "DISABLE_WASMTIME_CACHE", value_parser = clap::builder::BoolishValueParser::new())]
    disable_cache: bool,

    #[command(flatten)]
    reuse: ReuseOptions,

    /// Time that a component can compute without a wait before it is ended like
    /// a trap: 30s, 500ms. Spin has no such limit.
    #[arg(
        long,
        value_name = "TIME",
        default_value = "30s",
        value_parser = parse_duration,
        help_heading = "Beyond Spin"
    )]
    execution_limit: Duration,

    /// Delay small writes as Spin does: leave TCP_NODELAY off.
    #[arg(long, help_heading = "Beyond Spin")]
    no_tcp_nodelay: bool,

    #[command(flatten)]
    connections: ConnectionOptions,
}

fn main() -> ExitCode {
    let Command::Up(options) = Cli::parse().command;
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("Error: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        tokio::select! {
            result = up(options) => result,
            result = stop_signal() => result,
        }
    });
    // Instances are neither waited for, since a guest may loop, nor dropped,
    // which would report each as panicked.
    std::mem::forget(runtime);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("Error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn stop_signal() -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Ok(())
}

async fn up(options: Up) -> Result<()> {
    let app = App::load(&options.from)?;
    // Before the components, whose compilation can take seconds.
    let listener = server::listen(options.listen, options.find_free_port).await?;
    let address = listener.local_addr()?;
    let client = HttpClient::new();
    client.own_address.get_or_init(|| address);
    let server = tokio::task::block_in_place(|| load(&app, &options, &client))?;
    print_routes(&app, &server.routes, address);
    Arc::new(server).serve(listener).await
}

fn load(app: &App, options: &Up, client: &HttpClient) -> Result<Server> {
    let sources = ValueSources::new(read_variables(&options.variable)?, Path::new(".env"));
    let variables = Arc::new(Variables::new(&app.manifest, sources)?);
    let routes = Routes::new(&app.manifest.trigger.http)?;
    let engine = engine::new_engine(!options.disable_cache)?;
    let linker = platform::linker(&engine)?;
    let mut services: Vec<ProxyHandler<Instances>> = Vec::new();
    // By component. As on Spin, a trigger with middleware has instances of its own, and
    // a component without a trigger is not loaded: it may be middleware.
    let mut shared: HashMap<&str, ProxyHandler<Instances>> = HashMap::new();
    for trigger in &app.manifest.trigger.http {
        let id = &trigger.component;
        let is_plain = trigger.dependencies.middleware.is_empty();
        let service = match shared.get(id.as_str()) {
            Some(service) if is_plain => service.clone(),
            _ => {
                let component = &app.manifest.component[id];
                let context = || format!("component '{id}'");
                let allowed_hosts =
                    AllowedHosts::new(&component.allowed_outbound_hosts, &variables)
                        .with_context(context)?;
                if let Some(error) = allowed_hosts.error() {
                    eprintln!(
                        "Component {id} can reach no host: its allowed_outbound_hosts: {error}"
                    );
                }
                let environment = component.environment.clone().into_iter();
                ProxyHandler::new(Instances {
                    service: engine::load_service(&linker, app, trigger).with_context(context)?,
                    settings: Arc::new(ComponentSettings {
                        id: id.clone(),
                        environment: environment.chain(options.env.clone()).collect(),
                        allowed_hosts,
                        variables: Arc::clone(&variables),
                        quiet: options.quiet,
                    }),
                    client: client.clone(),
                    reuse: options.reuse,
                    execution_limit: options.execution_limit,
                })
            }
        };
        if is_plain {
            shared.insert(id, service.clone());
        }
        services.push(service);
    }
    Ok(Server {
        routes,
        services,
        info: serde_json::to_string_pretty(&app.manifest.application)?,
        tcp_nodelay: !options.no_tcp_nodelay,
        executions: Arc::new(Semaphore::new(options.connections.max_connections)),
        connections: options.connections,
    })
}

fn print_routes(app: &App, routes: &Routes, address: SocketAddr) {
    println!("\nServing http://{address}");
    println!("Available Routes:");
    for route in routes.iter() {
        println!("  {}: http://{address}{route}", route.component);
        let description = &app.manifest.component[&route.component].description;
        if !description.is_empty() {
            println!("    {description}");
        }
    }
}

fn read_variables(sources: &[String]) -> Result<HashMap<String, String>> {
    let read =
        |path: &str| std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let mut variables = HashMap::new();
    for source in sources {
        if let Some(path) = source.strip_prefix('@') {
            let text = read(path)?;
            let invalid = || format!("variable file {path} is no table of strings");
            let values: HashMap<String, String> = match Path::new(path).extension() {
                Some(json) if json == "json" => serde_json::from_str(&text).context(invalid())?,
                Some(toml) if toml == "toml" => toml::from_str(&text).context(invalid())?,
                _ => anyhow::bail!("variable file {path} must end in .json or .toml"),
            };
            variables.extend(values);
            continue;
        }
        let (key, value) = source
            .split_once('=')
            .with_context(|| format!("variable {source:?} is neither key=value nor @file"))?;
        let value = match value.strip_prefix('@') {
            Some(path) => read(path)?,
            None => value.to_owned(),
        };
        variables.insert(key.to_owned(), value);
    }
    Ok(variables)
}

fn parse_pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("is not in the form KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    let addresses = text.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut addresses: Vec<_> = addresses.collect();
    // As in Spin, `localhost` is 127.0.0.1 rather than ::1.
    addresses.sort_by_key(|address| address.ip() != Ipv4Addr::LOCALHOST);
    addresses
        .first()
        .copied()
        .ok_or("has no address".to_owned())
}
