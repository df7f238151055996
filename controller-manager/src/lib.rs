//! The controllers that make what is asked for come true: each watches some kinds and, told that a key may have changed, compares what should be with
//! what is and does the next thing about it.
//!
//! A controller is its file in [`controllers`] and a row in the table there. It reads the shared caches, decides in a pure function what to do
//! ([`ops::Op`]), and leaves doing it to the one executor ([`ops::Executor`]). It never learns what exactly happened, only which key to look at, so
//! a missed or doubled event does no harm.
//!
//! Behaviour, names and texts are upstream's `pkg/controller`. Which of upstream's controllers are deliberately absent, and why, says
//! [`controllers::names`].

pub mod accounts;
pub mod amounts;
pub mod children;
pub mod claim;
pub mod controller;
pub mod controllers;
pub mod discovery;
pub mod endpoint_slices;
pub mod flags;
pub mod nodes;
pub mod ops;
pub mod pods;
pub mod revisions;
pub mod run;
pub mod services;
pub mod topology_hints;
pub mod trigger_times;
pub mod trim;
pub mod written;

pub use run::{Options, run};
