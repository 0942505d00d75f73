-- What `zfs-keyprovider load` asks of the datasets of a pool, in one call of the kernel (zfs-program(8)).
-- Arguments: of how many of the datasets below it shall tell, `0` for none; then datasets.
-- Answers what the properties say of each that is there, in `found`; and in `rest` the names of those below that
-- are more than it was to tell of. `root` is true for an encryption root: nothing but that has a keylocation
-- of its own.
local argv = (...)["argv"]
local most = tonumber(argv[1])
local found, rest, count = {}, {}, 0

local function own(name, property)
    local value, source = zfs.get_prop(name, property)
    if source == name or source == "$recvd" then
        return value
    end
    return nil
end

local function tell(name)
    local keylocation = own(name, "keylocation")
    local root = keylocation ~= nil and keylocation ~= "none"
    found[name] = {
        guid = zfs.get_prop(name, "guid"),
        keystatus = zfs.get_prop(name, "keystatus"),
        keyformat = zfs.get_prop(name, "keyformat"),
        root = root,
        recovery = root and own(name, "strongroom:recovery") or nil,
    }
end

local function look_below(name)
    for child in zfs.list.children(name) do
        count = count + 1
        if count <= most then
            tell(child)
        else
            rest[child] = true
        end
        look_below(child)
    end
end

for i = 2, #argv do
    if zfs.exists(argv[i]) then
        tell(argv[i])
        if most > 0 then
            look_below(argv[i])
        end
    end
end
return {found = found, rest = rest}
