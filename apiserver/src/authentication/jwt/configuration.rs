//! Which issuers there are: an AuthenticationConfiguration (upstream: `apiserver/pkg/apis/apiserver/v1`), or what the flags `--oidc-...` say of one.

use anyhow::{Result, bail, ensure};
use jsonwebtoken::Algorithm;
use serde::Deserialize;

/// What signatures are accepted of issuers in a configuration.
pub const ALGORITHMS: [Algorithm; 8] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
];
const VERSIONS: [&str; 3] = ["apiserver.config.k8s.io/v1", "apiserver.config.k8s.io/v1beta1", "apiserver.config.k8s.io/v1alpha1"];
/// How many issuers there may be (upstream's).
const MOST: usize = 64;

/// The file.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AuthenticationConfiguration {
    api_version: String,
    kind: String,
    /// The issuers.
    #[serde(default)]
    pub jwt: Vec<JwtAuthenticator>,
    /// Whether requests without credentials are let in.
    pub anonymous: Option<Anonymous>,
}

/// Requests without credentials.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Anonymous {
    /// Whether they are let in.
    pub enabled: bool,
}

/// An issuer and what its tokens say.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct JwtAuthenticator {
    /// Who.
    pub issuer: Issuer,
    /// What has to hold of claims.
    #[serde(default)]
    pub claim_validation_rules: Vec<ClaimValidationRule>,
    /// What claims say of the user.
    #[serde(default)]
    pub claim_mappings: ClaimMappings,
    /// What has to hold of the user.
    #[serde(default)]
    pub user_validation_rules: Vec<UserValidationRule>,
}

/// An issuer.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Issuer {
    /// What `iss` says, and where its discovery document is.
    pub url: String,
    /// Where its discovery document is, if that is elsewhere.
    #[serde(rename = "discoveryURL")]
    pub discovery_url: Option<String>,
    /// Authorities its certificate must be of, PEM; the system's where empty.
    #[serde(default)]
    pub certificate_authority: String,
    /// One of these has to be in `aud`.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// `MatchAny` where there are several audiences.
    #[serde(default)]
    pub audience_match_policy: String,
}

/// A claim's value, or an expression over all claims.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimValidationRule {
    /// The claim.
    pub claim: String,
    /// What it has to be.
    pub required_value: String,
    /// What has to be true.
    pub expression: String,
    /// What is said otherwise.
    pub message: String,
}

/// An expression over the user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct UserValidationRule {
    /// What has to be true.
    pub expression: String,
    /// What is said otherwise.
    pub message: String,
}

/// What claims say of the user.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimMappings {
    /// The name.
    pub username: PrefixedClaimOrExpression,
    /// The groups.
    pub groups: PrefixedClaimOrExpression,
    /// The id.
    pub uid: ClaimOrExpression,
    /// More.
    pub extra: Vec<ExtraMapping>,
}

/// A claim behind a prefix, or an expression.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct PrefixedClaimOrExpression {
    /// The claim.
    #[serde(deserialize_with = "or_empty")]
    pub claim: String,
    /// What stands before it; to be given with a claim, if only as nothing.
    pub prefix: Option<String>,
    /// The expression.
    pub expression: String,
}

/// A claim or an expression.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
pub struct ClaimOrExpression {
    /// The claim.
    pub claim: String,
    /// The expression.
    pub expression: String,
}

/// A key of the user's extra facts, and the expression that makes its values.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExtraMapping {
    /// `example.com/tenant`.
    pub key: String,
    /// A text or a list of texts.
    pub value_expression: String,
}

fn or_empty<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    Ok(Option::<String>::deserialize(deserializer)?.unwrap_or_default())
}

impl AuthenticationConfiguration {
    /// From YAML or JSON.
    pub fn parse(text: &str) -> Result<Self> {
        let configuration: AuthenticationConfiguration = serde_yaml::from_str(text)?;
        ensure!(VERSIONS.contains(&configuration.api_version.as_str()), "no kind is known for version {:?}", configuration.api_version);
        ensure!(configuration.kind == "AuthenticationConfiguration", "no kind {:?} is known", configuration.kind);
        ensure!(configuration.jwt.len() <= MOST, "jwt: must have at most {MOST} items");
        for (index, jwt) in configuration.jwt.iter().enumerate() {
            let path = format!("jwt[{index}]");
            jwt.check(&path)?;
            let before = &configuration.jwt[..index];
            ensure!(
                before.iter().all(|other| other.issuer.url != jwt.issuer.url),
                "{path}.issuer.url: Duplicate value: {:?}",
                jwt.issuer.url
            );
        }
        Ok(configuration)
    }
}

impl JwtAuthenticator {
    fn check(&self, path: &str) -> Result<()> {
        let issuer = &self.issuer;
        for (field, url) in [("url", Some(&issuer.url)), ("discoveryURL", issuer.discovery_url.as_ref())] {
            let Some(url) = url else { continue };
            ensure!(url.starts_with("https://"), "{path}.issuer.{field}: Invalid value: {url:?}: URL scheme must be https");
        }
        ensure!(issuer.discovery_url.as_ref() != Some(&issuer.url), "{path}.issuer.discoveryURL: discoveryURL must be different from URL");
        ensure!(!issuer.audiences.is_empty(), "{path}.issuer.audiences: Required value: at least one jwt.issuer.audiences is required");
        match (issuer.audiences.len(), issuer.audience_match_policy.as_str()) {
            (1, "" | "MatchAny") | (_, "MatchAny") => {}
            (_, other) => bail!(
                "{path}.issuer.audienceMatchPolicy: Invalid value: {other:?}: audienceMatchPolicy must be MatchAny for multiple audiences"
            ),
        }
        for (field, mapping) in [("username", &self.claim_mappings.username), ("groups", &self.claim_mappings.groups)] {
            let prefixless = !mapping.claim.is_empty() && mapping.prefix.is_none();
            ensure!(
                !prefixless,
                "{path}.claimMappings.{field}.prefix: Required value: prefix is required when claim is set. It can be set to an empty string to disable prefixing"
            );
        }
        Ok(())
    }
}

/// The one issuer of the flags.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct OidcFlags {
    /// The URL of an OpenID issuer, whose tokens name users
    #[arg(long, requires = "oidc_client_id")]
    pub oidc_issuer_url: Option<String>,
    /// The client that the issuer's tokens have to be for
    #[arg(long, requires = "oidc_issuer_url")]
    pub oidc_client_id: Option<String>,
    /// Authorities that the issuer's certificate must be of; the system's when not given
    #[arg(long)]
    pub oidc_ca_file: Option<std::path::PathBuf>,
    /// The claim that is the user's name
    #[arg(long, default_value = "sub")]
    pub oidc_username_claim: String,
    /// What stands before names; the issuer's URL and # when not given, unless the claim is email; - stands for nothing
    #[arg(long, default_value = "")]
    pub oidc_username_prefix: String,
    /// The claim that has the user's groups
    #[arg(long, default_value = "")]
    pub oidc_groups_claim: String,
    /// What stands before groups
    #[arg(long, default_value = "")]
    pub oidc_groups_prefix: String,
    /// Accepted algorithms of signatures
    #[arg(long, value_delimiter = ',', default_value = "RS256")]
    pub oidc_signing_algs: Vec<Algorithm>,
    /// Claims that tokens must have: name=value
    #[arg(long)]
    pub oidc_required_claim: Vec<String>,
}

impl OidcFlags {
    /// The issuer, if there is one, with the authority that was read from its file.
    pub fn authenticator(&self, authority: String) -> Result<Option<JwtAuthenticator>> {
        let (Some(url), Some(client)) = (&self.oidc_issuer_url, &self.oidc_client_id) else { return Ok(None) };
        let prefix = match (self.oidc_username_prefix.as_str(), self.oidc_username_claim.as_str()) {
            ("-", _) | ("", "email") => String::new(),
            ("", _) => format!("{url}#"),
            (prefix, _) => prefix.to_owned(),
        };
        let mut claim_validation_rules = Vec::new();
        for required in &self.oidc_required_claim {
            let Some((claim, value)) = required.split_once('=') else { bail!("--oidc-required-claim {required:?}: want name=value") };
            claim_validation_rules.push(ClaimValidationRule { claim: claim.into(), required_value: value.into(), ..Default::default() });
        }
        let claim = |claim: &str, prefix: &str| PrefixedClaimOrExpression {
            claim: claim.into(),
            prefix: Some(prefix.into()),
            ..Default::default()
        };
        let made = JwtAuthenticator {
            issuer: Issuer {
                url: url.clone(),
                discovery_url: None,
                certificate_authority: authority,
                audiences: vec![client.clone()],
                audience_match_policy: String::new(),
            },
            claim_validation_rules,
            claim_mappings: ClaimMappings {
                username: claim(&self.oidc_username_claim, &prefix),
                groups: claim(&self.oidc_groups_claim, &self.oidc_groups_prefix),
                ..Default::default()
            },
            user_validation_rules: Vec::new(),
        };
        made.check("--oidc-issuer-url")?;
        Ok(Some(made))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_strictly() {
        let file = |issuer: &str, rest: &str| {
            format!("apiVersion: apiserver.config.k8s.io/v1\nkind: AuthenticationConfiguration\njwt:\n- issuer:\n    {issuer}\n{rest}")
        };
        let mapping = "  claimMappings:\n    username: {claim: sub, prefix: ''}\n";
        let good = AuthenticationConfiguration::parse(&file("{url: 'https://x', audiences: [a]}", mapping)).unwrap();
        assert_eq!((good.jwt.len(), good.jwt[0].issuer.url.as_str()), (1, "https://x"));
        for (issuer, rest, why) in [
            ("{url: 'http://x', audiences: [a]}", mapping, "URL scheme must be https"),
            ("{url: 'https://x'}", mapping, "at least one"),
            ("{url: 'https://x', audiences: [a, b]}", mapping, "MatchAny"),
            ("{url: 'https://x', audiences: [a]}", "  claimMappings:\n    username: {claim: sub}\n", "prefix is required"),
            ("{url: 'https://x', audiences: [a]}", "  odd: 1\n", "odd"),
        ] {
            let error = AuthenticationConfiguration::parse(&file(issuer, rest)).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn flags_name_one_issuer() {
        let flags = |claim: &str, prefix: &str| OidcFlags {
            oidc_issuer_url: Some("https://x".into()),
            oidc_client_id: Some("me".into()),
            oidc_username_claim: claim.into(),
            oidc_username_prefix: prefix.into(),
            oidc_required_claim: vec!["hd=y".into()],
            ..OidcFlags::default()
        };
        for (claim, prefix, want) in [("sub", "", "https://x#"), ("email", "", ""), ("sub", "-", ""), ("sub", "o:", "o:")] {
            let made = flags(claim, prefix).authenticator(String::new()).unwrap().unwrap();
            assert_eq!(made.claim_mappings.username.prefix.as_deref(), Some(want), "{claim} {prefix}");
            assert_eq!((made.issuer.audiences, made.claim_validation_rules[0].claim.as_str()), (vec!["me".to_owned()], "hd"));
        }
        assert!(OidcFlags::default().authenticator(String::new()).unwrap().is_none());
    }
}
