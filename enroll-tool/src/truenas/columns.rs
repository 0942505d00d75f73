//! The encrypted columns of TrueNAS databases, in releases 24.10 to 27.0: 51 of them, what each holds,
//! what reads it, and whether its values can move into the vault.
//!
//! A release has most of them, none has all. What a database has besides is not known here, and so
//! not touched: [`super::survey`] names it.
//!
//! Source: the models in `middlewared/plugins/**` of <https://github.com/truenas/middleware>, columns
//! of type `EncryptedText` and `JSON(encrypted=True)`.

use crate::cli::Class;

/// A column whose values are encrypted under the pwenc secret.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) table: &'static str,
    pub(crate) name: &'static str,
    pub(crate) form: Form,
    /// With what its values move; `None`: they stay.
    pub(crate) class: Option<Class>,
    /// What a value is, in an admin's words.
    pub(crate) what: &'static str,
    /// What reads it on TrueNAS.
    pub(crate) reader: &'static str,
}

/// What the middleware makes of the text that a value decrypts to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// Text, as it is.
    Text,
    /// JSON; nothing is written as an encrypted `{}`, and a failure reads as one.
    Json,
}

impl Column {
    /// A catalogued column.
    pub(crate) fn of(table: &str, name: &str) -> Option<&'static Self> {
        COLUMNS
            .iter()
            .find(|column| column.table == table && column.name == name)
    }

    /// The columns that move with a class.
    pub(crate) fn of_class(class: Class) -> impl Iterator<Item = &'static Self> {
        COLUMNS
            .iter()
            .filter(move |column| column.class == Some(class))
    }

    /// The columns of the table that tell its rows apart: the primary key, and, where it has one, what
    /// people call a row.
    pub(crate) fn keys_of(table: &str) -> (&'static str, Option<&'static str>) {
        let key = if table == "storage_disk" {
            "disk_identifier"
        } else {
            "id"
        };
        let name = match table {
            "storage_encrypteddataset"
            | "system_cloudcredentials"
            | "system_keychaincredential"
            | "system_acmednsauthenticator"
            | "account_api_key"
            | "app_registry" => Some("name"),
            "system_certificate" | "system_certificateauthority" => Some("cert_name"),
            "storage_replication" => Some("repl_name"),
            "tasks_cloudsync" | "tasks_cloud_backup" => Some("description"),
            "account_bsdusers" => Some("bsdusr_username"),
            "directoryservice_kerberoskeytab" => Some("keytab_name"),
            "services_iscsitargetauthcredential" => Some("iscsi_target_auth_user"),
            "services_nvmet_host" => Some("nvmet_host_hostnqn"),
            "storage_disk" => Some("disk_name"),
            "storage_jbof" => Some("jbof_description"),
            "storage_vmwareplugin" => Some("hostname"),
            _ => None,
        };
        (key, name)
    }
}

const fn text(
    table: &'static str,
    name: &'static str,
    what: &'static str,
    reader: &'static str,
) -> Column {
    Column {
        table,
        name,
        form: Form::Text,
        class: None,
        what,
        reader,
    }
}

const fn json(
    table: &'static str,
    name: &'static str,
    what: &'static str,
    reader: &'static str,
) -> Column {
    Column {
        form: Form::Json,
        ..text(table, name, what, reader)
    }
}

impl Column {
    const fn in_class(mut self, class: Class) -> Self {
        self.class = Some(class);
        self
    }
}

/// All that are known, those that move first.
pub(crate) const COLUMNS: [Column; 51] = [
    text(
        "storage_encrypteddataset",
        "encryption_key",
        "key of an encrypted dataset",
        "the unlock of pools at boot (pool.import_on_boot) and pool.dataset.unlock",
    )
    .in_class(Class::Datasets),
    json(
        "system_cloudcredentials",
        "attributes",
        "cloud credential",
        "cloud sync and cloud backup tasks, through rclone and restic",
    )
    .in_class(Class::Credentials),
    json(
        "system_keychaincredential",
        "attributes",
        "SSH key pair or connection",
        "replication over SSH, rsync over SSH, and SFTP cloud sync",
    )
    .in_class(Class::Keychain),
    text(
        "system_certificate",
        "cert_privatekey",
        "private key of a certificate",
        "the services that use the certificate: web interface, FTP, apps, KMIP, LDAP",
    )
    .in_class(Class::Certificates),
    text(
        "system_certificateauthority",
        "cert_privatekey",
        "private key of a certificate authority",
        "the signing of certificates",
    )
    .in_class(Class::Certificates),
    text(
        "storage_replication",
        "repl_encryption_key",
        "key of the datasets that a replication makes",
        "the replication task, when it first makes its target",
    )
    .in_class(Class::Replication),
    text(
        "tasks_cloudsync",
        "encryption_password",
        "password of a cloud sync's encryption",
        "the cloud sync task, through rclone",
    )
    .in_class(Class::Tasks),
    text(
        "tasks_cloudsync",
        "encryption_salt",
        "salt of a cloud sync's encryption",
        "the cloud sync task, through rclone",
    )
    .in_class(Class::Tasks),
    text(
        "tasks_cloud_backup",
        "password",
        "password of a cloud backup",
        "the cloud backup task, through restic",
    )
    .in_class(Class::Tasks),
    json(
        "system_certificate",
        "cert_domains_authenticators",
        "which authenticator proves which domain of a certificate",
        "the renewal of ACME certificates",
    ),
    text(
        "account_api_key",
        "salt",
        "salt of an API key",
        "every login with the API key",
    ),
    text(
        "account_api_key",
        "server_key",
        "server's key of an API key (SCRAM)",
        "every login with the API key",
    ),
    text(
        "account_api_key",
        "stored_key",
        "stored key of an API key (SCRAM)",
        "every login with the API key",
    ),
    text(
        "account_bsdusers",
        "bsdusr_smbhash",
        "SMB password hash of a user",
        "the SMB service's user database, written anew at boot",
    ),
    text(
        "account_bsdusers",
        "bsdusr_password_history",
        "hashes of a user's former passwords",
        "the change of a password",
    ),
    text(
        "account_twofactor_user_auth",
        "secret",
        "second factor of a user",
        "every login with a second factor",
    ),
    text(
        "app_registry",
        "username",
        "login at a container registry",
        "the download of apps",
    ),
    text(
        "app_registry",
        "password",
        "password at a container registry",
        "the download of apps",
    ),
    json(
        "container_device",
        "attributes",
        "device of a container",
        "the start of the container",
    ),
    json(
        "vm_device",
        "attributes",
        "device of a virtual machine",
        "the start of the virtual machine",
    ),
    text(
        "directoryservice_kerberoskeytab",
        "keytab_file",
        "Kerberos keytab",
        "the join of a domain, SMB and NFS; written to /etc/krb5.keytab at boot",
    ),
    text(
        "directoryservice_ldap",
        "ldap_bindpw",
        "password that binds to LDAP",
        "the directory service",
    ),
    json(
        "directoryservices",
        "cred_krb5",
        "Kerberos login of the directory service",
        "the directory service",
    ),
    json(
        "directoryservices",
        "cred_ldap_plain",
        "LDAP login of the directory service",
        "the directory service",
    ),
    json(
        "directoryservices",
        "ad_idmap",
        "mapping of a domain's users",
        "the directory service",
    ),
    json(
        "directoryservices",
        "ad_trusted_domains",
        "domains that are trusted",
        "the directory service",
    ),
    text(
        "services_cifs",
        "cifs_srv_secrets",
        "SMB server's own secrets",
        "the SMB service, at boot",
    ),
    text(
        "services_iscsitargetauthcredential",
        "iscsi_target_auth_secret",
        "secret of an iSCSI initiator (CHAP)",
        "the iSCSI service",
    ),
    text(
        "services_iscsitargetauthcredential",
        "iscsi_target_auth_peersecret",
        "secret of the iSCSI target (mutual CHAP)",
        "the iSCSI service",
    ),
    text(
        "services_nvmet_host",
        "nvmet_host_dhchap_key",
        "key of an NVMe-oF host (DH-CHAP)",
        "the NVMe-oF service",
    ),
    text(
        "services_nvmet_host",
        "nvmet_host_dhchap_ctrl_key",
        "key of the NVMe-oF controller (DH-CHAP)",
        "the NVMe-oF service",
    ),
    text(
        "services_snmp",
        "snmp_v3_password",
        "password of SNMP v3",
        "the SNMP service",
    ),
    text(
        "services_snmp",
        "snmp_v3_privpassphrase",
        "privacy passphrase of SNMP v3",
        "the SNMP service",
    ),
    text(
        "services_ssh",
        "ssh_privatekey",
        "private key of the SSH service",
        "the SSH service",
    ),
    text(
        "services_ssh",
        "ssh_host_dsa_key",
        "DSA host key",
        "the SSH service; written to /etc/ssh at boot",
    ),
    text(
        "services_ssh",
        "ssh_host_ecdsa_key",
        "ECDSA host key",
        "the SSH service; written to /etc/ssh at boot",
    ),
    text(
        "services_ssh",
        "ssh_host_ed25519_key",
        "Ed25519 host key",
        "the SSH service; written to /etc/ssh at boot",
    ),
    text(
        "services_ssh",
        "ssh_host_rsa_key",
        "RSA host key",
        "the SSH service; written to /etc/ssh at boot",
    ),
    text(
        "services_ssh",
        "ssh_host_key",
        "host key of SSH 1",
        "nothing any more",
    ),
    text(
        "services_ups",
        "ups_monpwd",
        "password of the UPS monitor",
        "the UPS service",
    ),
    text(
        "storage_disk",
        "disk_passwd",
        "password of a self-encrypting disk",
        "the unlock of self-encrypting disks at boot, before pools are imported",
    ),
    text(
        "system_advanced",
        "adv_sed_passwd",
        "password of all self-encrypting disks",
        "the unlock of self-encrypting disks at boot, before pools are imported",
    ),
    text(
        "storage_jbof",
        "jbof_mgmt_password",
        "password of a disk shelf's management",
        "the disk shelf's configuration",
    ),
    text(
        "storage_vmwareplugin",
        "password",
        "password at VMware",
        "snapshots that VMware is told of",
    ),
    text(
        "system_email",
        "em_pass",
        "password at the mail server",
        "every mail that the system sends",
    ),
    json(
        "system_email",
        "em_oauth",
        "OAuth tokens at the mail provider",
        "every mail that the system sends",
    ),
    json(
        "system_acmednsauthenticator",
        "attributes",
        "login at a DNS provider",
        "the renewal of ACME certificates",
    ),
    text(
        "system_truecommand",
        "api_key",
        "API key of TrueCommand",
        "the connection to TrueCommand",
    ),
    text(
        "system_truecommand",
        "wg_private_key",
        "WireGuard key of TrueCommand",
        "the connection to TrueCommand",
    ),
    text(
        "truenas_connect",
        "jwt_token",
        "token of TrueNAS Connect",
        "the connection to TrueNAS Connect",
    ),
    text(
        "system_settings",
        "stg_pwenc_check",
        "check value of the pwenc secret",
        "the middleware at start-up: where it does not decrypt, passwords and credentials are deleted",
    ),
];
