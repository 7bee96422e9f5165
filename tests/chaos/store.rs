//! The Redis of a run: one server or a master with a replica, or a cluster.

use std::sync::{Arc, atomic::AtomicU16};

use anyhow::bail;

use crate::{
    cluster::Cluster,
    contents::Contents,
    plan::{Plan, Schedule},
    redis_set::RedisSet,
};

#[derive(Debug)]
pub(crate) enum Store {
    Set(RedisSet),
    Cluster(Cluster),
}

impl Store {
    pub(crate) fn start(plan: &Plan) -> anyhow::Result<Self> {
        Ok(match plan.schedule {
            Schedule::Cluster => Self::Cluster(Cluster::start(plan)?),
            _ => Self::Set(RedisSet::start(plan)?),
        })
    }

    /// The ports of all servers that clients connect to.
    pub(crate) fn ports(&self) -> Vec<Arc<AtomicU16>> {
        match self {
            Self::Set(set) => vec![Arc::clone(set.port())],
            Self::Cluster(cluster) => cluster.ports(),
        }
    }

    /// What it holds.
    pub(crate) fn contents(&self) -> anyhow::Result<Contents> {
        match self {
            Self::Set(set) => Contents::read(set.master()),
            Self::Cluster(cluster) => cluster.contents(),
        }
    }

    /// The target of the faults of the other schedules.
    pub(crate) fn set(&mut self) -> anyhow::Result<&mut RedisSet> {
        match self {
            Self::Set(set) => Ok(set),
            Self::Cluster(_) => bail!("this fault is not for a cluster"),
        }
    }

    /// The target of the faults of a cluster.
    pub(crate) fn cluster(&mut self) -> anyhow::Result<&mut Cluster> {
        match self {
            Self::Cluster(cluster) => Ok(cluster),
            Self::Set(_) => bail!("this fault is for a cluster"),
        }
    }
}
