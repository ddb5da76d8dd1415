-- A small stand-in for KMC's database: the view and the table that examples/tools/kmc.toml asks.

CREATE TABLE Services (ServiceId INTEGER PRIMARY KEY, ServiceName TEXT NOT NULL);

INSERT INTO Services VALUES
    (1, 'Serviced Office'),
    (2, 'Coworking'),
    (3, 'Virtual Office'),
    (4, 'Staff Leasing'),
    (5, 'Enterprise Solutions');

CREATE TABLE Clients (
    ClientId INTEGER PRIMARY KEY,
    ClientName TEXT NOT NULL,
    ServiceId INTEGER NOT NULL REFERENCES Services,
    Active INTEGER NOT NULL
);

INSERT INTO Clients (ClientName, ServiceId, Active) VALUES
    ('Amihan Analytics', 1, 1), ('Balangay Freight', 1, 1), ('Calamansi Studio', 2, 1), ('Dagat Marine', 4, 1),
    ('Estero Finance', 1, 1), ('Fiesta Foods', 3, 1), ('Gabay Health', 4, 1), ('Habagat Energy', 5, 1),
    ('Isla Travel', 2, 1), ('Jeepney Labs', 2, 1), ('Kalabaw Robotics', 1, 1), ('Lakbay Tours', 3, 0),
    ('Mangga Media', 2, 0), ('Narra Design', 1, 1), ('Oragon Games', 4, 1), ('Perlas Retail', 3, 1),
    ('Quiapo Crafts', 3, 1), ('Rambutan Bio', 5, 1), ('Sampaguita Care', 4, 1), ('Tarsier Security', 1, 0);

CREATE VIEW vw_ClientCountPerService AS
SELECT ServiceName, COUNT(ClientId) AS ClientCount
FROM Services LEFT JOIN Clients ON Clients.ServiceId = Services.ServiceId AND Active = 1
GROUP BY Services.ServiceId;

CREATE TABLE Offices (
    OfficeId INTEGER PRIMARY KEY,
    OfficeName TEXT NOT NULL,
    Building TEXT NOT NULL,
    City TEXT NOT NULL,
    Capacity INTEGER NOT NULL,
    MonthlyRate INTEGER NOT NULL, -- Philippine pesos
    Available INTEGER NOT NULL
);

INSERT INTO Offices (OfficeName, Building, City, Capacity, MonthlyRate, Available) VALUES
    ('Suite 901', 'Ayala Triangle Tower', 'Makati', 12, 168000, 1),
    ('Suite 1204', 'Ayala Triangle Tower', 'Makati', 20, 290000, 1),
    ('Suite 1502', 'Salcedo Exchange', 'Makati', 24, 342000, 1),
    ('Suite 1701', 'Salcedo Exchange', 'Makati', 30, 418000, 0),
    ('Floor 21', 'Legazpi Central', 'Makati', 60, 795000, 1),
    ('Suite 805', 'High Street Five', 'Taguig', 16, 235000, 1),
    ('Suite 1103', 'High Street Five', 'Taguig', 25, 361000, 1),
    ('Floor 14', 'Uptown Arc', 'Taguig', 80, 1090000, 0),
    ('Suite 602', 'IT Park One', 'Cebu', 18, 171000, 1),
    ('Floor 9', 'IT Park One', 'Cebu', 45, 402000, 1),
    ('Suite 310', 'Clark Gateway', 'Clark', 22, 154000, 1);
