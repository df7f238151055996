//! ServiceCIDR: ranges that the addresses of services are taken from.

use crate::field::{ErrorList, Path};
use crate::kind::Kind;
use crate::printer::{self, AGE, NAME, shown};
use crate::resource::{Cells, Column, PrintContext, Resource, Subresource};
use crate::validation::IMMUTABLE;
use crate::validation::names::{canonical_cidr, parse_cidr};
use k8s_openapi::api::networking::v1::ServiceCIDR;
use serde_json::json;

const SUBRESOURCES: &[Subresource] = &[Subresource::status("ServiceCIDR")];

const COLUMNS: &[Column] = &[NAME, shown("CIDRs", "string"), AGE];

fn cidrs(object: &ServiceCIDR) -> &[String] {
    object.spec.as_ref().and_then(|s| s.cidrs.as_deref()).unwrap_or_default()
}

fn path() -> Path {
    Path::new("spec").child("cidrs")
}

impl Kind for ServiceCIDR {
    fn prepare_for_create(&mut self) {
        self.status = None;
    }

    fn validate(&self, errors: &mut ErrorList) {
        let cidrs = cidrs(self);
        if cidrs.is_empty() {
            return errors.required(&path(), "at least one CIDR required");
        }
        if cidrs.len() > 2 {
            return errors.invalid(&path(), json!(self.spec), "may only hold up to 2 values");
        }
        for (index, cidr) in cidrs.iter().enumerate() {
            canonical_cidr(cidr).iter().for_each(|why| errors.invalid(&path().index(index), cidr.as_str(), why));
        }
        if let [first, second] = cidrs
            && let (Some((first, _)), Some((second, _))) = (parse_cidr(first), parse_cidr(second))
            && first.is_ipv4() == second.is_ipv4()
        {
            let why = "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64";
            errors.invalid(&path(), json!(cidrs), why);
        }
    }

    fn validate_update(&self, old: &Self, errors: &mut ErrorList) {
        let (new, old) = (cidrs(self), cidrs(old));
        // A second family may be added; what is there stays.
        if new.len() != old.len() && (old.len(), new.len()) != (1, 2) {
            return errors.invalid(&path(), json!(new), IMMUTABLE);
        }
        for (index, (new, _)) in new.iter().zip(old).enumerate().filter(|(_, (new, old))| new != old) {
            errors.invalid(&path().index(index), new.as_str(), IMMUTABLE);
        }
        if new.len() != old.len() {
            self.validate(errors);
        }
    }

    fn cells(&self, context: &PrintContext) -> Cells {
        vec![printer::name(&self.metadata), json!(cidrs(self).join(",")), printer::age(&self.metadata, context)]
    }
}

/// The row.
pub fn row() -> Resource {
    Resource { subresources: SUBRESOURCES.into(), columns: COLUMNS.into(), ..Resource::of::<ServiceCIDR>() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_one_of_each_family_and_only_grow() {
        let range = |cidrs: &[&str]| -> ServiceCIDR { serde_json::from_value(json!({"spec": {"cidrs": cidrs}})).unwrap() };
        let found = |new: &[&str], old: Option<&[&str]>| {
            let mut errors = ErrorList::default();
            match old {
                Some(old) => range(new).validate_update(&range(old), &mut errors),
                None => range(new).validate(&mut errors),
            }
            errors.0.iter().map(|e| format!("{}: {}", e.path, e.message)).collect::<Vec<_>>()
        };
        let (four, six) = ("10.0.0.0/24", "fd00::/112");
        for (new, old, wrong) in [
            (&[four][..], None, None),
            (&[six, four], None, None),
            (&[], None, Some("spec.cidrs: Required value: at least one CIDR required")),
            (&[four, "10.1.0.0/24"], None, Some("one IP for each IP family")),
            (
                &["10.0.0.1/24"],
                None,
                Some("spec.cidrs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length"),
            ),
            (&["nope"], None, Some("must be a valid CIDR value")),
            (&[four, six], Some(&[four][..]), None),
            (&["10.1.0.0/24"], Some(&[four]), Some("spec.cidrs[0]: Invalid value: \"10.1.0.0/24\": field is immutable")),
            (&[four], Some(&[four, six]), Some("field is immutable")),
            (&[four, "10.1.0.0/24"], Some(&[four]), Some("one IP for each IP family")),
        ] {
            let found = found(new, old);
            match wrong {
                None => assert_eq!(found, Vec::<String>::new(), "{new:?}"),
                Some(wrong) => assert!(found.len() == 1 && found[0].contains(wrong), "{new:?}: {found:?}"),
            }
        }
    }
}
