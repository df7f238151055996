//! Setting up and taking down the volumes of a pod, and what its containers mount of them.

use super::{
    Backing, BackingError, Result, TYPES, VolumeContext, VolumeError, VolumeType, atomic_writer,
    ownership::{self, own, own_tree},
    sub_path,
};
use crate::container::{config, identity};
use jiff::Timestamp;
use k8s_cri::v1::{Device, ImageSpec, Mount};
use k8s_openapi::api::core::v1::{Container, Volume, VolumeDevice, VolumeMount};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// Where on the node a volume is.
#[derive(Clone, Debug)]
pub struct Mounted {
    /// The path.
    pub path: PathBuf,
    /// No container may write there, whatever its mount says.
    pub read_only: bool,
    /// What containers get of it.
    pub gives: Gives,
}

/// What a volume is for containers.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Gives {
    /// Files, for `volumeMounts`.
    #[default]
    Files,
    /// A device, for `volumeDevices`.
    Device,
    /// The files of an image, for `volumeMounts`; it is fetched once containers are to start.
    Image(Option<Box<ImageSpec>>),
}

/// Why a volume is not there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The volume.
    pub volume: String,
    /// The event that tells of it, reason and message; none where it is only waited for.
    pub event: Option<(&'static str, String)>,
}

/// The volumes of a pod by their names in it.
pub type Paths = BTreeMap<String, Mounted>;

/// The directory of a pod below the kubelet's root.
pub fn pod_dir(root: &Path, uid: &str) -> PathBuf {
    root.join("pods").join(uid)
}

/// Sets up every volume of the pod, or brings it up to date, all at once. Can be repeated.
pub async fn set_up(root: &Path, context: &VolumeContext<'_>) -> std::result::Result<Paths, Vec<Failure>> {
    let volumes = context.pod.spec.iter().flat_map(|s| s.volumes.iter().flatten());
    let made = volumes.map(|volume| async move { (volume.name.clone(), set_up_one(root, volume, context).await) });
    let (mut paths, mut failed) = (Paths::new(), Vec::new());
    for (name, result) in futures::future::join_all(made).await {
        match result {
            Ok(path) => drop(paths.insert(name, path)),
            // Whoever looks for the volume knows it by its name in the pod.
            Err(failure) => failed.push(Failure { volume: name, ..failure }),
        }
    }
    if failed.is_empty() { Ok(paths) } else { Err(failed) }
}

async fn set_up_one(root: &Path, volume: &Volume, context: &VolumeContext<'_>) -> std::result::Result<Mounted, Failure> {
    let failed = |failure: BackingError| {
        let name = failure.volume.as_deref().unwrap_or(&volume.name);
        let event = ("FailedMount", format!("{} failed for volume {name:?} : {}", failure.step, failure.error));
        Failure { volume: volume.name.clone(), event: Some(event) }
    };
    let Some(kind) = TYPES.iter().find(|t| t.takes(volume)) else {
        // Kubernetes without a source means an empty directory.
        return Err(failed(VolumeError("no volume plugin matched".into()).into()));
    };
    match kind.backing(volume, context).await.map_err(failed)? {
        Backing::Csi(wanted) => match context.csi {
            Some(csi) => csi.set_up(*wanted, &volume.name, context).await,
            None => Err(failed(VolumeError("there is no API server".into()).into())),
        },
        backing => place(root, volume, *kind, backing, context).map_err(|error| failed(error.into())),
    }
}

/// Makes what the kubelet makes itself.
fn place(root: &Path, volume: &Volume, kind: &dyn VolumeType, backing: Backing, context: &VolumeContext<'_>) -> Result<Mounted> {
    let dir = pod_dir(root, identity::uid(context.pod)).join("volumes").join(format!("kubernetes.io~{}", kind.name())).join(&volume.name);
    let group = ownership::group(context.pod);
    let mut read_only = false;
    match backing {
        Backing::Path { path, read_only, owned } => {
            if owned && !read_only {
                own_tree(&path, context.pod)?;
            }
            return Ok(Mounted { path, read_only, gives: Gives::Files });
        }
        Backing::Device { path, read_only } => return Ok(Mounted { path, read_only, gives: Gives::Device }),
        Backing::Image => return Ok(Mounted { path: PathBuf::new(), read_only: true, gives: Gives::Image(None) }),
        Backing::Csi(_) => return Err(VolumeError("a driver's volume is no directory of the kubelet's".into())),
        Backing::Empty { memory, size } => {
            let fresh = prepare(&dir, memory, size)?;
            if fresh {
                // Whoever the containers run as may write here, as upstream has it.
                fs::set_permissions(&dir, fs::Permissions::from_mode(0o777))?;
                own(&dir, group)?;
            }
        }
        Backing::Files { files, memory } => {
            if prepare(&dir, memory, super::memory::size(0, context))? {
                fs::set_permissions(&dir, fs::Permissions::from_mode(if memory { 0o1777 } else { 0o777 }))?;
                own(&dir, group)?;
            }
            let stamp = Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f").to_string();
            atomic_writer::write(&dir, &files, &stamp, group)?;
            read_only = true;
        }
    }
    Ok(Mounted { path: dir, read_only, gives: Gives::Files })
}

/// Makes the directory, with a tmpfs on it where it is to be in memory. Answers whether it is new.
fn prepare(dir: &Path, memory: bool, size: u64) -> Result<bool> {
    let existed = dir.is_dir();
    fs::create_dir_all(dir)?;
    if !memory {
        return Ok(!existed);
    }
    if is_mount_point(dir)? {
        return Ok(false);
    }
    let size = if size > 0 { format!("size={size}") } else { "size=50%".to_owned() };
    let tmpfs = |options: &str| mount(Some("tmpfs"), dir, Some("tmpfs"), MsFlags::empty(), Some(options));
    // What is in memory for a secret's sake is not to be swapped to a disk; kernels before 6.3 have no word for that.
    tmpfs(&format!("{size},noswap"))
        .or_else(|_| tmpfs(&size))
        .map_err(|error| VolumeError(format!("mounting a tmpfs on {}: {error}", dir.display())))?;
    Ok(true)
}

/// Whether something is mounted on a directory.
pub fn is_mount_point(dir: &Path) -> io::Result<bool> {
    let parent = dir.parent().unwrap_or(dir);
    Ok(fs::metadata(dir)?.dev() != fs::metadata(parent)?.dev())
}

/// Takes down all that was set up for a pod: unmounts what is mounted below its directory and removes it.
pub fn tear_down(root: &Path, uid: &str) -> io::Result<()> {
    let dir = pod_dir(root, uid);
    if uid.is_empty() || !dir.exists() {
        return Ok(());
    }
    // First, and not with the rest: what is bound here is the volumes' own, some of which are not the pod's.
    sub_path::release_all(&dir)?;
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let mut below: Vec<PathBuf> =
        mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(unescape).filter(|p| p.starts_with(&dir)).collect();
    // The innermost first.
    below.sort_by_key(|p| std::cmp::Reverse(p.components().count()));
    for path in below {
        umount2(&path, MntFlags::MNT_DETACH).map_err(io::Error::from)?;
    }
    fs::remove_dir_all(&dir)
}

/// A path as mountinfo writes it, with octal escapes for white space and backslashes.
fn unescape(field: &str) -> PathBuf {
    let text = field.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\");
    PathBuf::from(text)
}

/// The devices that a container's volumes are. The runtime follows links.
pub fn devices(container: &Container, paths: &Paths) -> Result<Vec<Device>> {
    let wanted = container.volume_devices.iter().flatten();
    let device = |wanted: &VolumeDevice| match paths.get(&wanted.name) {
        Some(volume) if volume.gives == Gives::Device => Ok(Device {
            container_path: wanted.device_path.clone(),
            host_path: volume.path.to_string_lossy().into_owned(),
            permissions: if volume.read_only { "r" } else { "mrw" }.into(),
        }),
        Some(_) => Err(VolumeError(format!("volume {:?} is no device", wanted.name))),
        None => Err(VolumeError(format!("volume {:?} is not set up", wanted.name))),
    };
    wanted.map(device).collect()
}

/// The mounts of a container's volumes. `pod_dir` is the pod's directory; `env` is the container's environment, for `subPathExpr`.
pub fn mounts(container: &Container, paths: &Paths, pod_dir: &Path, env: &[(String, String)]) -> Result<Vec<Mount>> {
    let all = container.volume_mounts.iter().flatten().enumerate();
    all.map(|(index, mount)| one_mount(container, (index, mount), paths, pod_dir, env)).collect()
}

fn one_mount(
    container: &Container,
    (index, mount): (usize, &VolumeMount),
    paths: &Paths,
    pod_dir: &Path,
    env: &[(String, String)],
) -> Result<Mount> {
    let volume = paths.get(&mount.name).ok_or_else(|| VolumeError(format!("volume {:?} is not set up", mount.name)))?;
    let sub = sub_path::wanted(mount, env)?;
    let image = match (&volume.gives, &sub) {
        (Gives::Files, _) => None,
        (Gives::Device, _) => return Err(VolumeError(format!("volume {:?} has no files", mount.name))),
        (Gives::Image(_), Some(_)) => return Err(VolumeError(format!("subPath in image volume {:?} is not supported", mount.name))),
        (Gives::Image(None), None) => return Err(VolumeError(format!("the image of volume {:?} is not there", mount.name))),
        (Gives::Image(Some(image)), None) => Some(image.as_ref().clone()),
    };
    let host_path = match sub {
        None => volume.path.clone(),
        Some(sub) => {
            let target = sub_path::target(pod_dir, &mount.name, &container.name, index);
            sub_path::bind(&volume.path, &sub, &target, &mount.name, &container.name)?;
            target
        }
    };
    Ok(Mount {
        container_path: if mount.mount_path.starts_with('/') { mount.mount_path.clone() } else { format!("/{}", mount.mount_path) },
        host_path: host_path.to_string_lossy().into_owned(),
        readonly: volume.read_only || mount.read_only == Some(true),
        propagation: config::propagation(mount),
        image,
        ..Default::default()
    })
}

/// A file that the kubelet makes for a container: its path on the node and where it is mounted.
pub fn file_mount(host: &Path, container_path: &str) -> Mount {
    Mount { container_path: container_path.to_owned(), host_path: host.to_string_lossy().into_owned(), ..Default::default() }
}

/// Whether the container mounts something at this path itself.
pub fn mounts_at(container: &Container, path: &str) -> bool {
    container.volume_mounts.iter().flatten().any(|m| m.mount_path.trim_end_matches('/') == path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_the_runtimes_to_mount_and_a_device_is_no_mount() {
        let spec = ImageSpec { image: "sha256:x".into(), user_specified_image: "r/i:v1".into(), ..Default::default() };
        let give = |gives| Paths::from([("v".to_owned(), Mounted { path: "/dev/x".into(), read_only: true, gives })]);
        let mount = VolumeMount { name: "v".into(), mount_path: "/files".into(), ..Default::default() };
        let made = |gives| one_mount(&Container::default(), (0, &mount), &give(gives), Path::new("/"), &[]);
        let got = made(Gives::Image(Some(Box::new(spec.clone())))).expect("a mount");
        assert_eq!((got.image, got.readonly, got.container_path.as_str()), (Some(spec), true, "/files"));
        assert_eq!(made(Gives::Image(None)).expect_err("it is not there").0, "the image of volume \"v\" is not there");
        assert_eq!(made(Gives::Device).expect_err("a device").0, "volume \"v\" has no files");
        let wanted = VolumeDevice { name: "v".into(), device_path: "/dev/given".into() };
        let container = Container { volume_devices: Some(vec![wanted]), ..Default::default() };
        let device = devices(&container, &give(Gives::Device)).expect("a device").remove(0);
        assert_eq!((device.host_path.as_str(), device.container_path.as_str(), device.permissions.as_str()), ("/dev/x", "/dev/given", "r"));
        assert!(devices(&container, &give(Gives::Files)).is_err());
    }

    #[test]
    fn mounts_are_absolute_and_as_writable_as_their_volume() {
        let paths = Paths::from([("v".to_owned(), Mounted { path: "/host/v".into(), read_only: true, gives: Gives::Files })]);
        let mount = VolumeMount { name: "v".into(), mount_path: "data".into(), ..Default::default() };
        let got = one_mount(&Container::default(), (0, &mount), &paths, Path::new("/"), &[]).expect("a mount");
        assert_eq!((got.container_path.as_str(), got.host_path.as_str(), got.readonly), ("/data", "/host/v", true));
    }
}
